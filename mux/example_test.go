package mux_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log"
	"net"

	"github.com/culvertd/culvert/mux"
)

// Both sides of one connection: whoever accepted it answers on streams that
// whoever dialled it opens.
func Example() {
	near, far := net.Pipe() // as it comes from tls.Dial and a tls.Listener
	client, server := mux.Client(near, mux.Config{}), mux.Server(far, mux.Config{})
	ctx := context.Background()

	go func() {
		for {
			s, err := server.Accept(ctx)
			if err != nil {
				return // the connection has ended
			}
			go func() {
				defer s.Close()
				question, err := io.ReadAll(s) // up to CloseWrite
				if err != nil {
					return
				}
				fmt.Fprintf(s, "you said %q", question)
			}()
		}
	}()

	s, err := client.Open(ctx)
	if err != nil {
		log.Fatal(err)
	}
	io.WriteString(s, "hello")
	s.CloseWrite() // the answer can still be read
	answer, err := io.ReadAll(s)
	fmt.Printf("%s, %v\n", answer, err)
	s.Close()

	client.Shutdown(ctx) // takes no more streams, waits for those that are left
	server.Wait()
	// Output: you said "hello", <nil>
}

// A reset ends a stream at once, also for a writer that waits, and says why.
func ExampleStream_Reset() {
	const codeTooLarge = 0x100 // codes from here on are the application's

	near, far := net.Pipe()
	client, server := mux.Client(near, mux.Config{}), mux.Server(far, mux.Config{})
	defer client.Close()
	defer server.Close()
	ctx := context.Background()

	s, err := client.Open(ctx)
	if err != nil {
		log.Fatal(err)
	}
	go func() {
		upload, err := server.Accept(ctx)
		if err != nil {
			return
		}
		upload.Read(make([]byte, 1))
		upload.Reset(codeTooLarge)
	}()

	_, err = s.Write(make([]byte, 1<<30)) // waits for credit, and hears the reset
	if reset, ok := errors.AsType[*mux.StreamError](err); ok {
		fmt.Println(reset.Code == codeTooLarge, reset.Remote)
	}
	// Output: true true
}
