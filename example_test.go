package culvert_test

import (
	"context"
	"fmt"
	"log"
	"net/http"
	"os"

	"github.com/culvertd/culvert"
)

// A web server with a public URL, on no port of this machine at all.
func ExampleAgent_Listen() {
	agent := &culvert.Agent{Server: "tunnel.example.com", Token: os.Getenv("CULVERT_TOKEN")}
	defer agent.Close()

	ln, err := agent.Listen(context.Background(), culvert.Tunnel{Name: "blog"})
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(ln.URL())
	log.Fatal(http.Serve(ln, http.FileServer(http.Dir("public"))))
}

// A service that somebody else wrote, on port 3000 of this machine.
func ExampleForward() {
	agent := &culvert.Agent{Server: "tunnel.example.com", Token: os.Getenv("CULVERT_TOKEN")}
	defer agent.Close()

	ln, err := agent.Listen(context.Background(), culvert.Tunnel{})
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(ln.URL())
	log.Fatal(culvert.Forward(context.Background(), ln, culvert.Service{Target: "3000"}))
}
