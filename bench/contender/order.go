package contender

import (
	"context"
	"encoding/binary"
	"errors"
	"io"
)

// Order says what a node sends on a stream.
type Order struct {
	Messages int  // 0 is without end
	Size     int  // bytes of a message
	Hold     bool // keep the stream open after the messages, until it is canceled
}

const orderSize = 9 // bytes

func (o Order) encode() []byte {
	b := binary.LittleEndian.AppendUint32(nil, uint32(o.Messages))
	b = binary.LittleEndian.AppendUint32(b, uint32(o.Size))
	if o.Hold {
		return append(b, 1)
	}
	return append(b, 0)
}

var errBadOrder = errors.New("order of a wrong size")

func decodeOrder(b []byte) (Order, error) {
	if len(b) != orderSize {
		return Order{}, errBadOrder
	}
	return Order{
		Messages: int(binary.LittleEndian.Uint32(b)),
		Size:     int(binary.LittleEndian.Uint32(b[4:])),
		Hold:     b[8] == 1,
	}, nil
}

// produce carries an order out. send returns an error once the stream has ended.
func (o Order) produce(ctx context.Context, send func() error) error {
	for i := 0; i < o.Messages || o.Messages == 0; i++ {
		if err := send(); err != nil {
			return err
		}
	}
	if o.Hold {
		<-ctx.Done()
	}
	return nil
}

// consume takes what recv returns until each has had enough or the stream has ended.
func consume(recv func() (size int, err error), each func(size int) bool) error {
	for {
		size, err := recv()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		if !each(size) {
			return nil
		}
	}
}
