package main

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"

	"github.com/gridmesh/grid"
	"github.com/gridmesh/grid/debugz"
)

// The handlers of every gridctl node.
const (
	handlerEcho = grid.HandlerUserFirst + iota
	handlerSink
	handlerSource
)

// streamWindow is how many messages one end of a stream may be ahead of the other.
const streamWindow = 32

// registerHandlers registers echo, sink and source, and tells other nodes of this one's status page.
func registerHandlers(m *grid.Manager, page string) error {
	return errors.Join(
		grid.NameHandler(handlerEcho, "echo"),
		grid.NameHandler(handlerSink, "sink"),
		grid.NameHandler(handlerSource, "source"),
		debugz.RegisterCluster(m, page),
		m.RegisterSingleHandler(handlerEcho, echo),
		m.RegisterStreamingHandler(handlerSink, grid.StreamHandler{Handle: sink, InCapacity: streamWindow, OutCapacity: streamWindow}),
		m.RegisterStreamingHandler(handlerSource, grid.StreamHandler{Handle: source, OutCapacity: streamWindow}),
	)
}

// echo answers with what it is sent.
func echo(payload []byte) ([]byte, *grid.RemoteErr) { return payload, nil }

// sink answers each message with a receipt: the messages and bytes it got so far.
func sink(ctx context.Context, _ []byte, in <-chan []byte, out chan<- []byte) *grid.RemoteErr {
	var got receipt
	for b := range in {
		got.messages++
		got.bytes += uint64(len(b))
		grid.PutByteBuffer(b)
		select {
		case out <- got.appendTo(grid.GetByteBufferCap(receiptSize)):
		case <-ctx.Done():
			return grid.NewRemoteErr(context.Cause(ctx))
		}
	}
	return nil
}

// source sends as many messages as its payload, a sourceRequest, asks for.
func source(ctx context.Context, payload []byte, _ <-chan []byte, out chan<- []byte) *grid.RemoteErr {
	want, err := parseSourceRequest(payload)
	if err != nil {
		return grid.NewRemoteErr(err)
	}
	for range want.messages {
		b := zeros(want.size)
		select {
		case out <- b:
		case <-ctx.Done():
			return grid.NewRemoteErr(context.Cause(ctx))
		}
	}
	return nil
}

// receipt is an answer of the sink.
type receipt struct{ messages, bytes uint64 }

const receiptSize = 16 // bytes

func (r receipt) appendTo(b []byte) []byte {
	b = binary.BigEndian.AppendUint64(b, r.messages)
	return binary.BigEndian.AppendUint64(b, r.bytes)
}

func parseReceipt(b []byte) (receipt, error) {
	if len(b) != receiptSize {
		return receipt{}, fmt.Errorf("sink: receipt of %d bytes, want %d", len(b), receiptSize)
	}
	return receipt{binary.BigEndian.Uint64(b), binary.BigEndian.Uint64(b[8:])}, nil
}

// sourceRequest asks the source for messages of size bytes. Its text is "messages size".
type sourceRequest struct{ messages, size int }

func (r sourceRequest) String() string { return fmt.Sprintf("%d %d", r.messages, r.size) }

func parseSourceRequest(payload []byte) (r sourceRequest, err error) {
	if _, err := fmt.Sscanf(string(payload), "%d %d", &r.messages, &r.size); err != nil {
		return r, fmt.Errorf("source: want the number of messages and their size in bytes, got %.40q", payload)
	}
	if r.messages < 0 || r.size < 0 || r.size > maxSize {
		return r, fmt.Errorf("source: cannot send %d messages of %d bytes, at most %d bytes each", r.messages, r.size, maxSize)
	}
	return r, nil
}

// zeros returns a message of size bytes without what its buffer was used for before.
func zeros(size int) []byte {
	b := grid.GetByteBufferCap(size)[:size]
	clear(b)
	return b
}
