// Grpc is the service and the visitor of TestGRPC: gRPC as Go's own library
// speaks it, with the cases by which gRPC's libraries are tried against each
// other (https://github.com/grpc/grpc/blob/master/doc/interop-test-descriptions.md)
// and some of ours. It is a module of its own, so that the product does not
// depend on gRPC, and a program, because a case that fails ends it.
//
//	grpc serve ADDR [CERT KEY]       until it is killed
//	grpc call ADDR NAME CA CASE      exit code 0 if the case passes
//	grpc cases                       their names
package main

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"log"
	"maps"
	"net"
	"os"
	"slices"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
)

func main() {
	log.SetFlags(0)
	args := append(os.Args[1:], make([]string, 6)...)
	switch len(os.Args) {
	case 2:
		for _, name := range slices.Sorted(maps.Keys(cases)) {
			fmt.Println(name)
		}
	case 3, 5:
		log.Fatal(serve(args[1], args[2], args[3]))
	case 6:
		call(args[1], args[2], args[3], args[4])
	default:
		log.Fatal("usage: see the source")
	}
}

func serve(addr, cert, key string) error {
	ln, err := net.Listen("tcp", addr)
	if err != nil {
		return err
	}
	options := []grpc.ServerOption{grpc.MaxRecvMsgSize(8 << 20)}
	if cert != "" {
		creds, err := credentials.NewServerTLSFromFile(cert, key)
		if err != nil {
			return err
		}
		options = append(options, grpc.Creds(creds))
	}
	return newServer(options...).Serve(ln)
}

// call runs a case against whoever is name at addr. It exits when the case fails.
func call(addr, name, ca, which string) {
	pem, err := os.ReadFile(ca)
	if err != nil {
		log.Fatal(err)
	}
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(pem)
	conn, err := grpc.NewClient("passthrough:///"+addr,
		grpc.WithTransportCredentials(credentials.NewTLS(&tls.Config{RootCAs: roots, ServerName: name})),
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(8<<20)))
	if err != nil {
		log.Fatal(err)
	}
	defer conn.Close()
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	try, ok := cases[which]
	if !ok {
		log.Fatalf("no case %q", which)
	}
	try(ctx, conn)
}
