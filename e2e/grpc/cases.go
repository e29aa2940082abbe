package main

import (
	"bytes"
	"context"
	"io"
	"log"
	"strings"
	"sync"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/interop"
	testpb "google.golang.org/grpc/interop/grpc_testing"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/protoadapt"
)

// cases are gRPC's own, by their own names, and ours with hyphens.
var cases = map[string]func(context.Context, *grpc.ClientConn){
	"empty_unary":                 official(interop.DoEmptyUnaryCall),
	"large_unary":                 official(interop.DoLargeUnaryCall),
	"client_streaming":            official(interop.DoClientStreaming),
	"server_streaming":            official(interop.DoServerStreaming),
	"ping_pong":                   official(interop.DoPingPong),
	"empty_stream":                official(interop.DoEmptyStream),
	"timeout_on_sleeping_server":  official(interop.DoTimeoutOnSleepingServer),
	"cancel_after_begin":          official(interop.DoCancelAfterBegin),
	"cancel_after_first_response": official(interop.DoCancelAfterFirstResponse),
	"custom_metadata":             official(interop.DoCustomMetadata),
	"status_code_and_message":     official(interop.DoStatusCodeAndMessage),
	"special_status_message":      official(interop.DoSpecialStatusMessage),
	"unimplemented_method":        interop.DoUnimplementedMethod,
	"unimplemented_service": func(ctx context.Context, conn *grpc.ClientConn) {
		interop.DoUnimplementedService(ctx, testpb.NewUnimplementedServiceClient(conn))
	},
	"status-with-details": tryDetails,
	"deadline-is-told":    tryDeadline,
	"cancel-is-told":      tryCancel,
	"four-megabytes":      tryLarge,
	"hundred-at-once":     tryHundred,
	"thousand-messages":   tryThousand,
}

func official(do func(context.Context, testpb.TestServiceClient, ...grpc.CallOption)) func(context.Context, *grpc.ClientConn) {
	return func(ctx context.Context, conn *grpc.ClientConn) { do(ctx, testpb.NewTestServiceClient(conn)) }
}

// What a failure says, beside its code.
const message = "100 % ☺, \"quoted\"; and, more"

var details = []protoadapt.MessageV1{
	protoadapt.MessageV1Of(&testpb.EchoStatus{Code: 7, Message: "the first"}),
	protoadapt.MessageV1Of(&testpb.Payload{Body: bytes.Repeat([]byte{0, 255}, 1000)}),
}

func tryDetails(ctx context.Context, conn *grpc.ClientConn) {
	ctx = metadata.AppendToOutgoingContext(ctx, keyDetails, "1")
	_, err := testpb.NewTestServiceClient(conn).UnaryCall(ctx, &testpb.SimpleRequest{})
	s := status.Convert(err)
	if s.Code() != codes.FailedPrecondition || s.Message() != message || len(s.Details()) != len(details) {
		log.Fatalf("got %v, %q with %d details; want %q with %d", s.Code(), s.Message(), len(s.Details()), message, len(details))
	}
	for i, got := range s.Details() {
		if m, ok := got.(proto.Message); !ok || !proto.Equal(m, protoadapt.MessageV2Of(details[i])) {
			log.Fatalf("detail %d is %v", i, got)
		}
	}
}

// tryDeadline wants the server to know how long the client will wait.
func tryDeadline(ctx context.Context, conn *grpc.ClientConn) {
	ctx = metadata.AppendToOutgoingContext(ctx, keyLeft, "1")
	var header metadata.MD
	if _, err := testpb.NewTestServiceClient(conn).UnaryCall(ctx, &testpb.SimpleRequest{}, grpc.Header(&header)); err != nil {
		log.Fatal(err)
	}
	left, err := time.ParseDuration(strings.Join(header.Get(keyLeft), ""))
	if deadline, _ := ctx.Deadline(); err != nil || left > time.Until(deadline)+5*time.Second || left < time.Until(deadline)/2 {
		log.Fatalf("the server believes that it has %v, %v", left, err)
	}
}

// tryCancel wants the server to know that the client has gone.
func tryCancel(ctx context.Context, conn *grpc.ClientConn) {
	client := testpb.NewTestServiceClient(conn)
	hanging, cancel := context.WithCancel(metadata.AppendToOutgoingContext(ctx, keyHang, "1"))
	stream, err := client.FullDuplexCall(hanging)
	if err == nil {
		_, err = stream.Header() // it hangs by now
	}
	if err != nil {
		log.Fatal(err)
	}
	cancel()
	_, err = client.UnaryCall(metadata.AppendToOutgoingContext(ctx, keyEnded, "1"), &testpb.SimpleRequest{})
	if status.Code(err) != codes.Aborted || !strings.Contains(err.Error(), context.Canceled.Error()) {
		log.Fatalf("the server was told %v", err)
	}
}

// tryLarge sends and receives as much as a message may have by default.
func tryLarge(ctx context.Context, conn *grpc.ClientConn) {
	const size = 4 << 20
	res, err := testpb.NewTestServiceClient(conn).UnaryCall(ctx, &testpb.SimpleRequest{
		ResponseSize: size, Payload: &testpb.Payload{Body: make([]byte, size)},
	})
	if err != nil || len(res.Payload.GetBody()) != size {
		log.Fatalf("got %d bytes, %v", len(res.GetPayload().GetBody()), err)
	}
}

// tryHundred has a hundred streams open at once, and talks on each of them
// while all the others are open.
func tryHundred(ctx context.Context, conn *grpc.ClientConn) {
	client := testpb.NewTestServiceClient(conn)
	var done, opened sync.WaitGroup
	opened.Add(100)
	for range 100 {
		done.Go(func() {
			stream, err := client.FullDuplexCall(ctx)
			if err != nil {
				log.Fatal(err)
			}
			pingPong(stream, 1)
			opened.Done()
			opened.Wait()
			pingPong(stream, 1000)
			stream.CloseSend()
			if _, err := stream.Recv(); err != io.EOF {
				log.Fatal(err)
			}
		})
	}
	done.Wait()
}

// tryThousand sends a thousand messages, each after the answer to the one before.
func tryThousand(ctx context.Context, conn *grpc.ClientConn) {
	stream, err := testpb.NewTestServiceClient(conn).FullDuplexCall(ctx)
	if err != nil {
		log.Fatal(err)
	}
	for i := range 1000 {
		pingPong(stream, i)
	}
}

func pingPong(stream testpb.TestService_FullDuplexCallClient, size int) {
	if err := stream.Send(&testpb.StreamingOutputCallRequest{
		ResponseParameters: []*testpb.ResponseParameters{{Size: int32(size)}},
		Payload:            &testpb.Payload{Body: make([]byte, size)},
	}); err != nil {
		log.Fatal(err)
	}
	if res, err := stream.Recv(); err != nil || len(res.Payload.GetBody()) != size {
		log.Fatalf("got %d bytes of %d, %v", len(res.GetPayload().GetBody()), size, err)
	}
}
