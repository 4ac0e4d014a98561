package main

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/gridmesh/grid"
)

// sizes of what goes in pieces, and of what goes nowhere, in bytes.
const (
	large    = 3 << 20
	tooLarge = 5 << 20
	chunk    = 300 << 10
)

// world is what a scenario runs in.
type world struct {
	*node
	conn *grid.Connection
	both map[string]bool // what this node and its peer have
}

// scenario is something that has to work between any two nodes.
type scenario struct {
	name    string
	run     func(ctx context.Context, w world) (string, error)
	want    string // what run returns; an error is "error: " and its text
	needs   string // what both nodes must have for that; empty for nothing
	without string // what run returns otherwise
}

var scenarios = []scenario{
	{name: "a request", run: request(handlerEcho, "hello"), want: "hello"},
	{name: "an empty request", run: request(handlerEcho, ""), want: ""},
	{name: "a request to a handler that fails", run: request(handlerFail, "a"), want: `error: no key "a"`},
	{name: "a request to a handler that panics", run: panics, want: "an error of the handler"},
	{name: "a request to nobody", run: failing(grid.ErrUnknownHandler, request(handlerNobody, "")), want: "as expected"},
	{name: "a request that knows its caller", run: knowsCaller, want: "as expected"},
	{name: "a request on a subroute", run: onSubroute, want: "disks/sda"},
	{name: "a request with metadata", run: withUser, want: "anna"},
	{
		name: "a request with several values of a key", run: withUsers,
		needs: "names", want: "[anna bert]", without: "what cannot be sent is refused",
	},
	{name: "a request with a high priority", run: urgently, want: "hello"},
	{name: "a request that is given up", run: givenUp, want: "the handler knows"},
	{name: "a request that takes too long", run: tooLong, want: "the handler knows"},
	{name: "a large request", run: largeRequest, want: fmt.Sprintf("%x", sha256.Sum256(pattern(large)))},
	{name: "a large answer", run: largeAnswer, want: "as expected"},
	{name: "a request over the limit", run: failing(grid.ErrMessageTooLarge, request(handlerHash, strings.Repeat("a", tooLarge))), want: "as expected"},
	{name: "many requests at once", run: many, want: "as expected"},
	{name: "the peer's health", run: healthy, want: "as expected"},

	{name: "a stream from the handler", run: fromHandler, want: "1000 in order"},
	{name: "a stream to the handler", run: toHandler, want: "499500"},
	{name: "a stream both ways", run: bothWays, want: "as expected"},
	{name: "a stream of large messages", run: largeBothWays, want: "as expected"},
	{name: "a stream that fails late", run: failsLate, want: "one two: no third one"},
	{name: "a stream whose handler returns early", run: returnsEarly, want: "one is enough"},
	{name: "a stream that is given up", run: streamGivenUp, want: "the handler knows"},
	{name: "a stream that takes too long", run: streamTooLong, want: "the handler knows"},
	{name: "a stream to nobody", run: failing(grid.ErrUnknownHandler, streamToNobody), want: "as expected"},

	{name: "a request with a value", run: value, want: "this"},
	{name: "a value that is nested too deeply", run: tooDeep, want: "refused"},
	{name: "a stream of values", run: values, want: "a0 a1 a2"},

	{name: "a method", run: byName, want: "hello"},
	{name: "a method on a subroute", run: byNameOnSubroute, want: "hello"},
	{name: "a method of nobody", run: failing(grid.ErrUnknownHandler, nobodysMethod), want: "as expected"},
	{
		name: "a method that fails with a code", run: code,
		needs: "names", want: "NotFound: no key 1; in the index", without: "Unknown: no key 1; ",
	},
	{
		name: "a method that answers with metadata", run: told,
		needs: "names", want: "told map[served-by:[the handler]] map[took:[no time]]", without: "told ",
	},
	{name: "a method with values", run: methodWithValues, want: "this"},
	{
		name: "a method's stream", run: methodStream,
		needs: "names", want: "one two <nil> map[served-by:[the handler]] map[took:[no time]]", without: "one two <nil> ",
	},
	{name: "a method's stream with values", run: methodStreamWithValues, want: "one two three"},
	{name: "a method's stream that is half closed", run: halfClosed, want: "no more: 3 came"},
	{name: "a method's stream that is given up", run: methodStreamGivenUp, want: "the handler knows"},
	{name: "a method's stream to nobody", run: failing(grid.ErrUnknownHandler, nobodysMethodStream), want: "as expected"},
}

// check runs the scenarios with a peer, one after the other and then so many of each at once, and
// reports them.
func (n *node) check(peer string, atOnce int, peerHas []string) {
	w := world{n, n.Connection(peer), make(map[string]bool)}
	for _, tag := range peerHas {
		w.both[tag] = hasToo(tag)
	}
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	if err := w.conn.WaitForConnect(ctx); err != nil {
		n.tell(report{Kind: "checked", Name: "connect", Got: err.Error()})
		return
	}
	for _, s := range scenarios {
		n.tell(s.report(w))
	}
	var running sync.WaitGroup
	for range atOnce {
		for _, s := range scenarios {
			running.Go(func() { n.tell(s.report(w)) })
		}
	}
	running.Wait()
	n.tell(report{Kind: "checked"})
}

func (s *scenario) report(w world) report {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	got, err := s.run(ctx, w)
	if err != nil {
		got = "error: " + err.Error()
	}
	want := s.want
	if s.needs != "" && !w.both[s.needs] {
		want = s.without
	}
	return report{Kind: "scenario", Name: s.name, Got: got, Want: want}
}

// expect returns that something is as expected, or what is not.
func expect(ok bool, otherwise ...any) (string, error) {
	if !ok {
		return "", errors.New(fmt.Sprint(otherwise...))
	}
	return "as expected", nil
}

// failing runs something that has to fail with an error.
func failing(want error, run func(ctx context.Context, w world) (string, error)) func(ctx context.Context, w world) (string, error) {
	return func(ctx context.Context, w world) (string, error) {
		got, err := run(ctx, w)
		return expect(errors.Is(err, want), got, err)
	}
}

func request(h grid.HandlerID, payload string) func(ctx context.Context, w world) (string, error) {
	return func(ctx context.Context, w world) (string, error) {
		answer, err := w.conn.Request(ctx, h, []byte(payload))
		return string(answer), err
	}
}

func panics(ctx context.Context, w world) (string, error) {
	_, err := w.conn.Request(ctx, handlerPanic, nil)
	if !strings.Contains(fmt.Sprint(err), "panic") {
		return "", err
	}
	return "an error of the handler", nil
}

func knowsCaller(ctx context.Context, w world) (string, error) {
	answer, err := w.conn.Request(ctx, handlerWho, nil)
	return expect(string(answer) == w.HostName()+", deadline: true", string(answer), err)
}

func onSubroute(ctx context.Context, w world) (string, error) {
	answer, err := w.conn.Subroute("disks").Subroute("sda").Request(ctx, handlerRoute, nil)
	return string(answer), err
}

func withUser(ctx context.Context, w world) (string, error) {
	md := make(grid.Metadata)
	md.Set("user", "anna")
	answer, err := w.conn.Request(grid.WithMetadata(ctx, md), handlerMetadata, nil)
	return string(answer), err
}

func withUsers(ctx context.Context, w world) (string, error) {
	answer, err := w.conn.Request(twoValues(ctx), handlerMetadata, []byte("all"))
	if errors.Is(err, grid.ErrMetadata) {
		return "what cannot be sent is refused", nil
	}
	return string(answer), err
}

func urgently(ctx context.Context, w world) (string, error) {
	return request(handlerEcho, "hello")(urgent(ctx), w)
}

var keys atomic.Int64

// key returns what tells a call from all others.
func (w world) key() []byte { return fmt.Appendf(nil, "%s %d", w.HostName(), keys.Add(1)) }

// see waits until the handler of a call is in a state.
func (w world) see(ctx context.Context, key []byte, state string) (string, error) {
	for {
		got, err := w.conn.Request(ctx, handlerState, key)
		if err != nil {
			return "", err
		}
		if string(got) == state {
			return "the handler knows", nil
		}
		time.Sleep(time.Millisecond)
	}
}

func givenUp(ctx context.Context, w world) (string, error) {
	key := w.key()
	short, cancel := context.WithCancel(ctx)
	defer cancel()
	done := make(chan error, 1)
	go func() {
		_, err := w.conn.Request(short, handlerWait, key)
		done <- err
	}()
	if _, err := w.see(ctx, key, isRunning); err != nil {
		return "", err
	}
	cancel()
	if err := <-done; err != context.Canceled {
		return "", err
	}
	return w.see(ctx, key, hasEnded)
}

// tooLong has a short deadline, so it may be over before its handler is called.
func tooLong(ctx context.Context, w world) (string, error) {
	for wait := 10 * time.Millisecond; ; wait *= 2 {
		key := w.key()
		short, cancel := context.WithTimeout(ctx, wait)
		_, err := w.conn.Request(short, handlerWait, key)
		cancel()
		if err != context.DeadlineExceeded {
			return "", err
		}
		state, err := w.conn.Request(ctx, handlerState, key)
		if err != nil {
			return "", err
		}
		if len(state) > 0 { // it was
			return w.see(ctx, key, hasEnded)
		}
	}
}

func largeRequest(ctx context.Context, w world) (string, error) {
	answer, err := w.conn.Request(ctx, handlerHash, pattern(large))
	return string(answer), err
}

func largeAnswer(ctx context.Context, w world) (string, error) {
	answer, err := w.conn.Request(ctx, handlerGive, strconv.AppendInt(nil, large, 10))
	return expect(bytes.Equal(answer, pattern(large)), len(answer), err)
}

func many(ctx context.Context, w world) (string, error) {
	var calls sync.WaitGroup
	var failed atomic.Value
	for i := range 200 {
		calls.Go(func() {
			payload := pattern(i * i)
			answer, err := w.conn.Request(ctx, handlerEcho, payload)
			if err != nil || !bytes.Equal(answer, payload) {
				failed.Store(fmt.Sprint(i, len(answer), err))
			}
		})
	}
	calls.Wait()
	return expect(failed.Load() == nil, failed.Load())
}

func healthy(ctx context.Context, w world) (string, error) {
	for _, peer := range w.Health(ctx).Peers {
		if peer.Peer == w.conn.Remote {
			return expect(peer.Reachable, fmt.Sprintf("%+v", peer))
		}
	}
	return "", errors.New("it is none of the peers")
}

// results returns the messages of a stream, and its error.
func results(st *grid.Stream) (got []string, err error) {
	err = st.Results(func(b []byte) error {
		got = append(got, string(b))
		return nil
	})
	return got, err
}

func fromHandler(ctx context.Context, w world) (string, error) {
	st, err := w.conn.NewStream(ctx, handlerCount, []byte("1000"))
	if err != nil {
		return "", err
	}
	got, err := results(st)
	for i, number := range got {
		if number != strconv.Itoa(i) {
			return "", fmt.Errorf("%s in place of %d", number, i)
		}
	}
	return fmt.Sprint(len(got), " in order"), err
}

func toHandler(ctx context.Context, w world) (string, error) {
	st, err := w.conn.NewStream(ctx, handlerAdd, nil)
	if err != nil {
		return "", err
	}
	for i := range 1000 {
		if err := st.Send(strconv.AppendInt(nil, int64(i), 10)); err != nil {
			return "", err
		}
	}
	if err := st.CloseSend(); err != nil {
		return "", err
	}
	got, err := results(st)
	return strings.Join(got, " "), err
}

func bothWays(ctx context.Context, w world) (string, error) {
	return mirrored(ctx, w, 1000, func(i int) []byte { return strconv.AppendInt(nil, int64(i), 10) })
}

func largeBothWays(ctx context.Context, w world) (string, error) {
	return mirrored(ctx, w, 20, func(i int) []byte { return pattern(chunk + i) })
}

// mirrored sends n messages and compares them with what comes back.
func mirrored(ctx context.Context, w world, n int, message func(i int) []byte) (string, error) {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	st, err := w.conn.NewStream(ctx, handlerMirror, nil)
	if err != nil {
		return "", err
	}
	go func() {
		for i := range n {
			if err := st.Send(message(i)); err != nil {
				cancel(err)
			}
		}
		_ = st.CloseSend()
	}()
	i := 0
	err = st.Results(func(b []byte) error {
		if !bytes.Equal(b, message(i)) {
			return fmt.Errorf("message %d is not what was sent", i)
		}
		i++
		return nil
	})
	return expect(err == nil && i == n, i, err)
}

func failsLate(ctx context.Context, w world) (string, error) {
	st, err := w.conn.NewStream(ctx, handlerFailLate, nil)
	if err != nil {
		return "", err
	}
	got, err := results(st)
	return fmt.Sprint(strings.Join(got, " "), ": ", err), nil
}

// returnsEarly sends without reading until the handler's return ends that.
func returnsEarly(ctx context.Context, w world) (string, error) {
	st, err := w.conn.NewStream(ctx, handlerEarly, nil)
	for err == nil {
		err = st.Send([]byte("more"))
	}
	return fmt.Sprint(err), nil
}

func streamGivenUp(ctx context.Context, w world) (string, error) {
	key := w.key()
	short, cancel := context.WithCancel(ctx)
	defer cancel()
	st, err := w.conn.NewStream(short, handlerWaitStream, key)
	if err != nil {
		return "", err
	}
	err = st.Results(func([]byte) error {
		cancel()
		return nil
	})
	if err != context.Canceled {
		return "", err
	}
	return w.see(ctx, key, hasEnded)
}

func streamTooLong(ctx context.Context, w world) (string, error) {
	for wait := 10 * time.Millisecond; ; wait *= 2 {
		key := w.key()
		short, cancel := context.WithTimeout(ctx, wait)
		defer cancel()
		st, err := w.conn.NewStream(short, handlerWaitStream, key)
		if err != nil && err != context.DeadlineExceeded {
			return "", err
		}
		got, err := results(st)
		if err != context.DeadlineExceeded && err != grid.ErrDisconnected { // the latter of no stream
			return "", err
		}
		if len(got) > 0 {
			return w.see(ctx, key, hasEnded)
		}
	}
}

func streamToNobody(ctx context.Context, w world) (string, error) {
	st, err := w.conn.NewStream(ctx, handlerNoStream, nil)
	if err != nil {
		return "", err
	}
	_, err = results(st)
	return "", err
}

func value(ctx context.Context, w world) (string, error) {
	resp, err := typed.Call(ctx, w.conn, grid.NewMSSWith(map[string]string{"is": "this"}))
	if err != nil {
		return "", err
	}
	return resp.Get("was"), nil
}

// tooDeep sends a map with a value within three arrays.
func tooDeep(ctx context.Context, w world) (string, error) {
	_, err := w.conn.Request(ctx, handlerShallow, []byte{0x81, 0xa1, 'k', 0x91, 0x91, 0x91, 0xa1, 'v'})
	if err == nil || !strings.Contains(err.Error(), "nested too deeply") {
		return "", err
	}
	return "refused", nil
}

func values(ctx context.Context, w world) (string, error) {
	st, err := typedStream.Call(ctx, w.conn, grid.NewMSSWith(map[string]string{"prefix": "a"}))
	if err != nil {
		return "", err
	}
	for i := range 3 {
		if err := st.Send(grid.NewMSSWith(map[string]string{"n": strconv.Itoa(i)})); err != nil {
			return "", err
		}
	}
	if err := st.CloseSend(); err != nil {
		return "", err
	}
	var got []string
	err = st.Results(func(resp *grid.MSS) error {
		got = append(got, resp.Get("got"))
		return nil
	})
	return strings.Join(got, " "), err
}

func byName(ctx context.Context, w world) (string, error) {
	answer, err := call(ctx, w.conn, "compat.Echo", []byte("hello"))
	return string(answer), err
}

func byNameOnSubroute(ctx context.Context, w world) (string, error) {
	answer, err := callOnSubroute(ctx, w.conn, []byte("hello"))
	return string(answer), err
}

func nobodysMethod(ctx context.Context, w world) (string, error) {
	_, err := call(ctx, w.conn, "compat.Nobody", nil)
	return "", err
}

func code(ctx context.Context, w world) (string, error) {
	_, err := call(ctx, w.conn, "compat.Fail", nil)
	return describe(err), nil
}

func told(ctx context.Context, w world) (string, error) {
	ctx, metadata := withAnswer(ctx)
	answer, err := call(ctx, w.conn, "compat.Tell", nil)
	return fmt.Sprint(string(answer), " ", metadata()), err
}

func methodWithValues(ctx context.Context, w world) (string, error) {
	return callMethod(ctx, w.conn, "this")
}

func methodStream(ctx context.Context, w world) (string, error) {
	st, err := open(ctx, w.conn, "compat.Mirror", nil)
	if err != nil {
		return "", err
	}
	got, err := exchangeOver(st, "one", "two")
	return fmt.Sprint(got, " ", err, " ", answerOf(st)), nil
}

// exchangeOver sends messages over the stream of a method, and then returns what comes.
func exchangeOver(st *grid.Stream, messages ...string) (string, error) {
	for _, message := range messages {
		if err := st.Send([]byte(message)); err != nil {
			return "", err
		}
	}
	if err := st.CloseSend(); err != nil {
		return "", err
	}
	var got []string
	err := receive(st, func(b []byte) error {
		got = append(got, string(b))
		return nil
	})
	return strings.Join(got, " "), err
}

func methodStreamWithValues(ctx context.Context, w world) (string, error) {
	got, err := exchange(ctx, w.conn, []string{"one", "two", "three"})
	return strings.Join(got, " "), err
}

func halfClosed(ctx context.Context, w world) (string, error) {
	st, err := open(ctx, w.conn, "compat.Halves", nil)
	if err != nil {
		return "", err
	}
	got, err := exchangeOver(st, "one", "two", "three")
	return fmt.Sprint(got, ": ", err), nil
}

func methodStreamGivenUp(ctx context.Context, w world) (string, error) {
	key := w.key()
	short, cancel := context.WithCancel(ctx)
	defer cancel()
	st, err := open(short, w.conn, "compat.Wait", key)
	if err != nil {
		return "", err
	}
	err = receive(st, func([]byte) error {
		cancel()
		return nil
	})
	if err != context.Canceled {
		return "", err
	}
	return w.see(ctx, key, hasEnded)
}

func nobodysMethodStream(ctx context.Context, w world) (string, error) {
	st, err := open(ctx, w.conn, "compat.NobodyStream", nil)
	if err != nil {
		return "", err
	}
	return "", receive(st, func([]byte) error { return nil })
}
