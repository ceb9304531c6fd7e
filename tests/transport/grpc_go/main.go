// A client on grpc-go that does what Go gateways do, with messages that are bytes: go run . [-ca FILE] ADDRESS CASE.
//
// It exits with 0 when the case has gone as it must, else with 1 and a line that says why. What stands on standard output is read by
// the test, which may answer with a line.
package main

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"sync"
	"time"
	_ "unsafe" // for go:linkname

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/connectivity"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
	_ "google.golang.org/grpc/health" // makes channels heed healthCheckConfig
	"google.golang.org/grpc/keepalive"
	"google.golang.org/grpc/status"
)

const (
	process  = "/envoy.service.ext_proc.v3.ExternalProcessor/Process"
	deadline = 10 * time.Second
	// A channel that is told of a service's health, as service meshes configure it.
	serviceConfig = `{"loadBalancingConfig": [{"round_robin": {}}], "healthCheckConfig": {"serviceName": "inference-extension"}}`
)

// The ten seconds below which grpc-go asks nobody for a sign of life are longer than a test should take.
//
//go:linkname shortestKeepalive google.golang.org/grpc/internal.KeepaliveMinPingTime
var shortestKeepalive time.Duration

// raw is a codec for messages that are serialized already.
type raw struct{}

func (raw) Marshal(v any) ([]byte, error)      { return *v.(*[]byte), nil }
func (raw) Unmarshal(data []byte, v any) error { *v.(*[]byte) = bytes.Clone(data); return nil }
func (raw) Name() string                       { return "proto" }

var cases = map[string]func(*grpc.ClientConn) error{
	"ping-pong":     pingPong,
	"large":         large,
	"half-close":    halfClose,
	"cancel":        cancel,
	"deadline":      runOut,
	"many":          many,
	"unimplemented": unimplemented,
	"keepalive":     keepAlive,
	"health":        watchHealth,
}

func main() {
	ca := flag.String("ca", "", "certificate to trust; plaintext without")
	flag.Parse()
	address, name := flag.Arg(0), flag.Arg(1)
	shortestKeepalive = time.Millisecond
	if err := run(address, *ca, name); err != nil {
		fmt.Fprintf(os.Stderr, "%s: %v\n", name, err)
		os.Exit(1)
	}
}

func run(address, ca, name string) error {
	options := []grpc.DialOption{
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(1 << 30)),
		grpc.WithTransportCredentials(insecure.NewCredentials()),
	}
	if ca != "" {
		trust, err := credentials.NewClientTLSFromFile(ca, "localhost")
		if err != nil {
			return err
		}
		options = append(options, grpc.WithTransportCredentials(trust))
	}
	if name == "health" {
		options = append(options, grpc.WithDefaultServiceConfig(serviceConfig))
	}
	if name == "keepalive" {
		often := keepalive.ClientParameters{Time: 50 * time.Millisecond, Timeout: time.Second, PermitWithoutStream: true}
		options = append(options, grpc.WithKeepaliveParams(often))
	}
	connection, err := grpc.NewClient("dns:///"+address, options...)
	if err != nil {
		return err
	}
	defer connection.Close()
	what, found := cases[name]
	if !found {
		return errors.New("no such case")
	}
	return what(connection)
}

// open begins a stream of bytes.
func open(ctx context.Context, connection *grpc.ClientConn, method string) (grpc.ClientStream, error) {
	description := &grpc.StreamDesc{ClientStreams: true, ServerStreams: true}
	return connection.NewStream(ctx, description, method, grpc.ForceCodec(raw{}))
}

// echo sends a message and expects it back.
func echo(stream grpc.ClientStream, message []byte) error {
	if err := stream.SendMsg(&message); err != nil {
		return err
	}
	var answer []byte
	if err := stream.RecvMsg(&answer); err != nil {
		return err
	}
	if !bytes.Equal(answer, message) {
		return fmt.Errorf("sent %d bytes, and %d came back", len(message), len(answer))
	}
	return nil
}

// finish half-closes a stream and expects it to end with OK.
func finish(stream grpc.ClientStream) error {
	if err := stream.CloseSend(); err != nil {
		return err
	}
	var answer []byte
	if err := stream.RecvMsg(&answer); err != io.EOF {
		return fmt.Errorf("no end of the stream but %v", err)
	}
	return nil
}

// expect is nil if the next thing to come from a stream is its end with this status.
func expect(stream grpc.ClientStream, code codes.Code) error {
	var answer []byte
	if got := status.Code(stream.RecvMsg(&answer)); got != code {
		return fmt.Errorf("%v instead of %v", got, code)
	}
	return nil
}

func exchange(connection *grpc.ClientConn, sizes ...int) error {
	ctx, stop := context.WithTimeout(context.Background(), deadline)
	defer stop()
	stream, err := open(ctx, connection, process)
	if err != nil {
		return err
	}
	for i, size := range sizes {
		if err := echo(stream, bytes.Repeat([]byte{byte(i)}, size)); err != nil {
			return err
		}
	}
	return finish(stream)
}

func pingPong(connection *grpc.ClientConn) error {
	return exchange(connection, 0, 1, 5, 16_384-5, 16_384, 65_535, 65_536, 1_000_000, 2)
}

func large(connection *grpc.ClientConn) error {
	return exchange(connection, 30_000_000, 30_000_000)
}

func halfClose(connection *grpc.ClientConn) error {
	return exchange(connection)
}

func cancel(connection *grpc.ClientConn) error {
	for _, after := range []int{0, 1, 3} {
		ctx, stop := context.WithCancel(context.Background())
		stream, err := open(ctx, connection, process)
		for i := 0; i < after && err == nil; i++ {
			err = echo(stream, []byte("x"))
		}
		stop()
		if err != nil {
			return err
		}
		if err := expect(stream, codes.Canceled); err != nil {
			return err
		}
	}
	return exchange(connection, 1) // the connection has not suffered
}

func runOut(connection *grpc.ClientConn) error {
	ctx, stop := context.WithTimeout(context.Background(), 100*time.Millisecond)
	defer stop()
	stream, err := open(ctx, connection, process)
	if err != nil {
		return err
	}
	if err := echo(stream, []byte("x")); err != nil {
		return err
	}
	return expect(stream, codes.DeadlineExceeded)
}

// many has five hundred streams at once on the one connection.
func many(connection *grpc.ClientConn) error {
	var group sync.WaitGroup
	failures := make(chan error, 500)
	for range cap(failures) {
		group.Add(1)
		go func() {
			defer group.Done()
			failures <- exchange(connection, 10, 2_000, 10, 20_000, 10)
		}()
	}
	group.Wait()
	close(failures)
	for err := range failures {
		if err != nil {
			return err
		}
	}
	return nil
}

func unimplemented(connection *grpc.ClientConn) error {
	stream, err := open(context.Background(), connection, "/no.such.Service/Method")
	if err != nil {
		return err
	}
	return expect(stream, codes.Unimplemented)
}

// keepAlive leaves first a connection and then a stream alone for as long as twenty pings take.
func keepAlive(connection *grpc.ClientConn) error {
	if err := exchange(connection, 1); err != nil {
		return err
	}
	ctx, stop := context.WithTimeout(context.Background(), deadline)
	defer stop()
	if err := lasts(connection); err != nil {
		return err
	}
	stream, err := open(ctx, connection, process)
	if err != nil {
		return err
	}
	if err := echo(stream, []byte("before")); err != nil {
		return err
	}
	if err := lasts(connection); err != nil {
		return err
	}
	if err := echo(stream, []byte("after")); err != nil {
		return err
	}
	return finish(stream)
}

// lasts is nil if a connection that is ready still is after a second.
func lasts(connection *grpc.ClientConn) error {
	ctx, stop := context.WithTimeout(context.Background(), time.Second)
	defer stop()
	if connection.WaitForStateChange(ctx, connectivity.Ready) {
		return fmt.Errorf("the connection was not ready for long: %v", connection.GetState())
	}
	return nil
}

// watchHealth says each state that matters, and has the test change it.
func watchHealth(connection *grpc.ClientConn) error {
	commands := bufio.NewReader(os.Stdin)
	connection.Connect()
	for _, wanted := range []connectivity.State{connectivity.Ready, connectivity.TransientFailure, connectivity.Ready} {
		ctx, stop := context.WithTimeout(context.Background(), deadline)
		defer stop()
		for state := connection.GetState(); state != wanted; state = connection.GetState() {
			if !connection.WaitForStateChange(ctx, state) {
				return fmt.Errorf("still %v and not %v", state, wanted)
			}
		}
		err := exchange(connection, 1)
		if (err == nil) != (wanted == connectivity.Ready) {
			return fmt.Errorf("in state %v a call comes to: %v", wanted, err)
		}
		fmt.Println(wanted)
		if _, err := commands.ReadString('\n'); err != nil {
			return err
		}
	}
	return nil
}
