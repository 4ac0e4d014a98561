package grid

import (
	"context"
	"encoding/binary"
	"errors"
	"io"
	"slices"
	"testing"
	"testing/synctest"
)

// What a consumer is about to be given counts until it has been given, and is not given once the
// stream has been cut short.
func TestMessagesThatAreReadyAreNotTakenYet(t *testing.T) {
	const messages = 20
	synctest.Test(t, func(t *testing.T) {
		c := startPipes(t, 2, nil)
		c.stream(t, 0, messages, func(ctx context.Context, _ []byte, _ <-chan []byte, out chan<- []byte) *RemoteErr {
			for range messages {
				out <- make([]byte, 100)
			}
			<-ctx.Done()
			return nil
		})
		st, _ := c.openStream(t)
		synctest.Wait()
		errEnough := errors.New("enough")
		taken := 0
		err := st.Results(func([]byte) error {
			switch taken++; taken {
			case 2:
				if len(st.mux.ready) == 0 {
					t.Error("the consumer has taken one message at a time")
				}
				if got, want := st.mux.waiting(), (messages-1)*footprint(100); got != want {
					t.Errorf("%d bytes wait, want %d, because the second message is not done with", got, want)
				}
				if f := st.mux.window(); f.credit != f.size-messages*(messageFootprint+100) {
					t.Errorf("%d of %d may be sent", f.credit, f.size)
				}
				st.Cancel(errEnough)
			case 3:
				t.Error("a message came after the end")
			}
			return nil
		})
		if err != errEnough {
			t.Errorf("got %v", err)
		}
		c.idleAfter(t, 0)
	})
}

// What is left to read of a stream that has ended does not count, and so does not make that stream the
// one to end when streams hold too much.
func TestAStreamThatHasEndedWeighsNothing(t *testing.T) {
	const messages = 20
	synctest.Test(t, func(t *testing.T) {
		c := startPipes(t, 2, nil)
		gate := make(chan struct{})
		c.raw(t, func(_ context.Context, st *RawStream) error {
			for range messages {
				st.Send(make([]byte, 1000))
			}
			<-gate
			return nil
		})
		heavy := c.mustOpenRaw(t.Context(), t)
		for range 5 { // so that the heaviest is not looked for again each time
			c.mustOpenRaw(t.Context(), t)
		}
		if _, err := heavy.Recv(); err != nil { // gets others ready, too
			t.Fatal(err)
		}
		synctest.Wait()
		x := heavy.mux.muxes
		x.heaviest.get(x.streams)
		close(gate)
		synctest.Wait()
		if got := heavy.mux.waiting(); got != 0 {
			t.Errorf("%d bytes of an ended stream wait", got)
		}
		x.streamQuota.hold(int(x.streamQuota.maxHeld))
		if x.hold(&weight{looks: new(int)}, 1) {
			t.Error("there is room where nothing can be ended")
		}
		x.streamQuota.free(int(x.streamQuota.maxHeld))
		if n := c.conn(0, 1).Stats().Refused.MaxStreamBytes; n != 0 {
			t.Errorf("%d streams were refused", n)
		}
		if all, err := recvAll(heavy); err != io.EOF || len(all) != messages-1 {
			t.Errorf("%d messages were left to read, and %v", len(all), err)
		}
		c.idleAfter(t, 0)
	})
}

// The messages of a frame may be of several streams, and have others among them. All reach those
// whom they concern, in order, although nothing follows.
func TestAFrameOfManyStreams(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newPipes(1)
		n, host := startForFake(t, c, nil)
		c.stream(t, 0, 1, pour(1))
		p := c.knock(t, n)
		p.introduceAs(t, host, nativeFeatures)
		conn := n.Connection(host)
		if err := conn.WaitForConnect(t.Context()); err != nil {
			t.Fatal(err)
		}
		const streams = 3
		var got [streams][]uint32
		var ids [streams]uint64
		ended := make(chan error, streams)
		for i := range streams {
			st, err := conn.NewStream(t.Context(), testStream, nil)
			if err != nil {
				t.Fatal(err)
			}
			ids[i] = p.next(t).MuxID
			go func() {
				ended <- st.Results(func(b []byte) error {
					got[i] = append(got[i], binary.LittleEndian.Uint32(b))
					return nil
				})
			}()
		}
		var sent [streams][]uint32
		var frame []message
		add := func(i int, flags Flags) {
			seq := uint32(len(sent[i]))
			sent[i] = append(sent[i], seq)
			frame = append(frame, message{MuxID: ids[i], Op: OpMuxServerMsg, Seq: seq, Flags: flags | FlagCRCxxh3, Payload: binary.LittleEndian.AppendUint32(nil, seq)})
		}
		for i := range streams {
			frame = append(frame, message{MuxID: ids[i], Op: OpAckMux, Flags: FlagCRCxxh3})
			sent[i] = []uint32{0}
		}
		for round, i := range []int{0, 1, 0, 2, 2, 1} {
			for range 1 + 7*round { // also more than are delivered at once
				add(i, 0)
			}
			if round == 3 {
				frame = append(frame, message{Op: OpPing})
			}
		}
		add(1, FlagEOF)
		add(0, 0)
		p.sendMerged(t, frame)
		synctest.Wait()
		for i := range streams {
			if want := sent[i][1:]; !slices.Equal(got[i], want) {
				t.Errorf("stream %d got %v, want %v", i, got[i], want)
			}
		}
		if err := <-ended; err != nil {
			t.Error(err)
		}
		p.socket.Close()
		for range streams - 1 {
			if err := <-ended; !errors.Is(err, ErrDisconnected) {
				t.Errorf("got %v", err)
			}
		}
		c.idleAfter(t, 0)
	})
}
