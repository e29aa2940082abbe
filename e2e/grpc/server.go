package main

import (
	"context"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/interop"
	testpb "google.golang.org/grpc/interop/grpc_testing"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
)

// A server is gRPC's own test server, and does what the keys below ask for.
type server struct {
	testpb.TestServiceServer
	ended chan error // of calls that hang: why they ended
}

// Keys of metadata that change what a call does.
const (
	keyDetails = "x-details" // fail, with details
	keyLeft    = "x-left"    // answer with the time that is left, as a header
	keyHang    = "x-hang"    // wait for the end
	keyEnded   = "x-ended"   // wait until a call that hangs has ended
)

func newServer(options ...grpc.ServerOption) *grpc.Server {
	g := grpc.NewServer(options...)
	testpb.RegisterTestServiceServer(g, &server{interop.NewTestServer(), make(chan error, 100)})
	return g
}

func asked(ctx context.Context, key string) bool {
	return len(metadata.ValueFromIncomingContext(ctx, key)) > 0
}

func (s *server) UnaryCall(ctx context.Context, in *testpb.SimpleRequest) (*testpb.SimpleResponse, error) {
	switch {
	case asked(ctx, keyDetails):
		detailed, err := status.New(codes.FailedPrecondition, message).WithDetails(details...)
		if err != nil {
			return nil, err
		}
		return nil, detailed.Err()
	case asked(ctx, keyLeft):
		deadline, ok := ctx.Deadline()
		if !ok {
			return nil, status.Error(codes.Internal, "no deadline")
		}
		grpc.SetHeader(ctx, metadata.Pairs(keyLeft, time.Until(deadline).String()))
		return &testpb.SimpleResponse{}, nil
	case asked(ctx, keyEnded):
		select {
		case err := <-s.ended:
			return nil, status.Error(codes.Aborted, err.Error())
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
	return s.TestServiceServer.UnaryCall(ctx, in)
}

func (s *server) FullDuplexCall(stream testpb.TestService_FullDuplexCallServer) error {
	if !asked(stream.Context(), keyHang) {
		return s.TestServiceServer.FullDuplexCall(stream)
	}
	if err := stream.SendHeader(nil); err != nil {
		return err
	}
	<-stream.Context().Done()
	s.ended <- stream.Context().Err()
	return stream.Context().Err()
}
