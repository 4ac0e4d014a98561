package grid_test

import (
	"context"
	"errors"
	"fmt"
	"log"
	"os"
	"strings"
	"time"

	"github.com/gridmesh/grid"
)

// Results calls a function for each message and returns the error of the handler, if it has one.
func ExampleConnection_NewStream() {
	here, there, cleanup := pair()
	defer cleanup()
	errEmpty := grid.RemoteErr("the list is empty")
	list := grid.StreamHandler{
		OutCapacity: 16, // messages that the handler may be ahead
		Handle: func(ctx context.Context, payload []byte, _ <-chan []byte, out chan<- []byte) *grid.RemoteErr {
			for name := range strings.FieldsSeq(string(payload)) {
				select {
				case out <- []byte(name):
				case <-ctx.Done(): // the caller is gone
					return nil
				}
			}
			return &errEmpty
		},
	}
	for _, m := range []*grid.Manager{here, there} { // the caller needs the capacities
		if err := m.RegisterStreamingHandler(handlerCount, list); err != nil {
			log.Fatal(err)
		}
	}

	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second) // for the whole stream
	defer cancel()
	stream, err := here.Connection(there.HostName()).NewStream(ctx, handlerCount, []byte("anna bert"))
	if err != nil {
		log.Fatal(err)
	}
	err = stream.Results(func(msg []byte) error {
		fmt.Printf("%s\n", msg)
		grid.PutByteBuffer(msg)
		return nil // an error would end the stream
	})
	fmt.Println(errors.Is(err, errEmpty))
	// Output:
	// anna
	// bert
	// true
}

// A stream in one direction: the handler sends, the caller ranges over what comes.
func ExampleStream_All() {
	here, there, cleanup := pair()
	defer cleanup()
	count := grid.StreamHandler{
		OutCapacity: 16, // messages that the handler may be ahead
		Handle: func(ctx context.Context, payload []byte, _ <-chan []byte, out chan<- []byte) *grid.RemoteErr {
			for i := range 3 {
				select {
				case out <- fmt.Appendf(nil, "%s %d", payload, i):
				case <-ctx.Done():
					return nil
				}
			}
			return nil
		},
	}
	for _, m := range []*grid.Manager{here, there} { // the caller needs the capacities
		if err := m.RegisterStreamingHandler(handlerCount, count); err != nil {
			log.Fatal(err)
		}
	}

	stream, err := here.Connection(there.HostName()).NewStream(context.Background(), handlerCount, []byte("line"))
	if err != nil {
		log.Fatal(err)
	}
	for msg, err := range stream.All() {
		if err != nil {
			log.Fatal(err)
		}
		fmt.Printf("%s\n", msg)
		grid.PutByteBuffer(msg)
	}
	// Output:
	// line 0
	// line 1
	// line 2
}

// A stream in both directions: one goroutine sends while another receives.
func ExampleStream_Send() {
	here, there, cleanup := pair()
	defer cleanup()
	upper := grid.StreamHandler{
		InCapacity:  4,
		OutCapacity: 4,
		Handle: func(ctx context.Context, _ []byte, in <-chan []byte, out chan<- []byte) *grid.RemoteErr {
			for msg := range in { // ends when the caller closes Requests, or goes away
				select {
				case out <- []byte(strings.ToUpper(string(msg))):
				case <-ctx.Done():
				}
			}
			return nil
		},
	}
	for _, m := range []*grid.Manager{here, there} {
		if err := m.RegisterStreamingHandler(handlerUpper, upper); err != nil {
			log.Fatal(err)
		}
	}

	stream, err := here.Connection(there.HostName()).NewStream(context.Background(), handlerUpper, nil)
	if err != nil {
		log.Fatal(err)
	}
	go func() {
		defer close(stream.Requests) // tells the handler that this was all
		for _, word := range []string{"one", "two", "three"} {
			if err := stream.Send([]byte(word)); err != nil {
				return // the loop below is told why
			}
		}
	}()
	for msg, err := range stream.All() {
		if err != nil {
			log.Fatal(err)
		}
		fmt.Printf("%s\n", msg)
	}
	// Output:
	// ONE
	// TWO
	// THREE
}

// A handler whose output is text writes it as to a file. Each Write is a message.
func ExampleWriterToChannel() {
	here, there, cleanup := pair()
	defer cleanup()
	report := grid.StreamHandler{
		OutCapacity: 4,
		Handle: func(ctx context.Context, _ []byte, _ <-chan []byte, out chan<- []byte) *grid.RemoteErr {
			w := grid.WriterToChannel(ctx, out)
			for disk, free := range []int{70, 30} {
				if _, err := fmt.Fprintf(w, "disk %d: %d%% free\n", disk, free); err != nil {
					return grid.NewRemoteErr(err) // the cause of ctx
				}
			}
			return nil
		},
	}
	for _, m := range []*grid.Manager{here, there} {
		if err := m.RegisterStreamingHandler(handlerText, report); err != nil {
			log.Fatal(err)
		}
	}

	stream, err := here.Connection(there.HostName()).NewStream(context.Background(), handlerText, nil)
	if err != nil {
		log.Fatal(err)
	}
	err = stream.Results(func(line []byte) error {
		_, err := os.Stdout.Write(line)
		grid.PutByteBuffer(line)
		return err
	})
	if err != nil {
		log.Fatal(err)
	}
	// Output:
	// disk 0: 70% free
	// disk 1: 30% free
}
