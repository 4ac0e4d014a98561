package workload

import (
	"cmp"
	"context"
	"errors"
	"io"
	"slices"
	"time"

	"github.com/gridmesh/grid"
)

// method is that of named streams.
const method = "workload.TwoWay"

var errImpatient = errors.New("out of patience")

// patiently waits, and when its patience is over tries again.
func patiently(patience time.Duration, wait func(ctx context.Context) ([]byte, error)) ([]byte, error) {
	if patience == 0 {
		return wait(context.Background())
	}
	for {
		ctx, cancel := context.WithTimeoutCause(context.Background(), patience, errImpatient)
		b, err := wait(ctx)
		cancel()
		if err != errImpatient {
			return b, err
		}
	}
}

// sendPatiently sends b, which is given away with a nil error.
func sendPatiently(patience time.Duration, b []byte, sendCopy func(ctx context.Context, b []byte) error, send func(b []byte) error) error {
	if patience == 0 {
		return send(b)
	}
	_, err := patiently(patience, func(ctx context.Context) ([]byte, error) { return nil, sendCopy(ctx, b) })
	if err == nil {
		grid.PutByteBuffer(b)
	}
	return err
}

// namedStream makes a call of a stream to a method.
func (r *Record) namedStream(ctx context.Context, c *grid.Connection, payload []byte) error {
	st, err := c.OpenStream(ctx, method, payload)
	if err != nil {
		return err
	}
	if r.Work.Early && slices.Contains(c.Peer().Features, "headers") { // others send it with the first message
		if md, err := st.WaitForHeader(ctx); err == nil {
			r.checkTag("early header", md)
		}
	}
	s := streamEnd{
		results: st.Results,
		all:     st.All(),
		close:   func() { _ = st.CloseSend() },
		send:    func(_ context.Context, b []byte) error { return sendPatiently(r.Patience, b, st.SendCopy, st.Send) },
	}
	if r.Use.Last {
		s.ended = make(chan struct{})
	}
	if r.Use.Recv {
		s.results = func(next func(b []byte) error) error { return r.receive(st, s.ended, next) }
	}
	err = r.use(ctx, s)
	if err == nil || r.coded() && r.codedRight(err) {
		r.checkTag("header", st.Header())
		r.checkTag("trailer", st.Trailer())
	}
	return err
}

func (r *Record) checkTag(what string, md grid.Metadata) {
	if !r.tagged(md) {
		r.violate("the %s of the stream is %v", what, md)
	}
}

// receive is Results, by Recv. It closes ended, where that is not nil, once the handler has ended its
// messages.
func (r *Record) receive(st *grid.Stream, ended chan struct{}, next func(b []byte) error) error {
	defer st.Cancel(errLeft) // unless it has ended
	for {
		b, err := patiently(r.Patience, st.RecvContext)
		if err == io.EOF {
			break
		}
		if err != nil {
			return err
		}
		r.checkTag("header", st.Header())
		if err := next(b); err != nil {
			return err
		}
	}
	if ended != nil {
		close(ended)
	}
	<-st.Done() // the handler may go on receiving
	if _, err := st.Recv(); err != cmp.Or(st.Err(), io.EOF) {
		r.violate("after the end of the stream with %v Recv returns %v", st.Err(), err)
	}
	return st.Err()
}

// namedPipe is the handler's end of a named stream.
type namedPipe struct {
	*grid.RawStream
	patience time.Duration
}

func (w *Workload) newNamedPipe(id uint64, st *grid.RawStream) *namedPipe {
	p := &namedPipe{RawStream: st}
	if r := w.Record(id); r != nil {
		p.patience = r.Patience
	}
	return p
}

func (p *namedPipe) receive() ([]byte, error) { return patiently(p.patience, p.RecvContext) }
func (p *namedPipe) put(b []byte)             { grid.PutByteBuffer(b) }
func (p *namedPipe) takesInput() bool         { return true }

// send needs no done: it ends with the stream.
func (p *namedPipe) send(b []byte, _ <-chan struct{}) bool {
	return sendPatiently(p.patience, b, p.SendCopy, p.Send) == nil
}

// end ends the handler's messages. It returns true.
func (p *namedPipe) end(r *Record) bool {
	p.CloseSend()
	if p.Send(nil) == nil {
		r.violate("the handler has sent behind the end of its messages")
	}
	return true
}
