package grid

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/gridmesh/grid/internal/testkit"
)

// The handlers of the conversations.
const (
	transcriptSingle HandlerID = 74 // answers "ping me", "fail", "slow" and nil
	transcriptTwoWay           = HandlerTrace
	transcriptOneWay           = HandlerListen
	transcriptAbsent           = HandlerWalkDir // the remote has no such stream
)

const transcriptSubroute = "asubroute"

// transcript is a conversation of two originals, in which the dialer makes the calls.
type transcript struct {
	Name  string           `json:"name"`
	Steps []transcriptStep `json:"steps"`
}

type transcriptStep struct {
	Dir        string   `json:"dir"`
	Op         string   `json:"op"`
	MuxID      uint64   `json:"mux_id"`
	Seq        uint32   `json:"seq"`
	DeadlineMS uint32   `json:"deadline_ms"`
	Handler    uint8    `json:"handler"`
	Flags      string   `json:"flags"`
	Payload    string   `json:"payload"`
	Frame      hexBytes `json:"frame_hex"`
}

// fromCaller reports whether the dialer, who makes the calls, sends the step.
func (s *transcriptStep) fromCaller() bool { return s.Dir == "dialer->acceptor" }

// merged reports whether the step was sent inside an OpMerged.
func (s *transcriptStep) merged() bool { return strings.HasSuffix(s.Op, mergedSuffix) }

const mergedSuffix = " (inside Merged)"

// message parses the step's bytes and checks that they are what its other fields say.
func (s *transcriptStep) message(t *testing.T) message {
	t.Helper()
	var m message
	if err := m.parse(s.Frame); err != nil {
		t.Fatal(err)
	}
	payload := fmt.Sprintf("%x", m.Payload)
	if m.Payload == nil {
		payload = "nil"
	}
	if m.MuxID != s.MuxID || m.Seq != s.Seq || m.DeadlineMS != s.DeadlineMS || uint8(m.Handler) != s.Handler ||
		m.Op.String() != strings.TrimSuffix(s.Op, mergedSuffix) || m.Flags.String() != s.Flags || payload != s.Payload {
		t.Fatalf("%x is %s, which is not what the step says: %+v", s.Frame, describe(&m), s)
	}
	if b := m.appendTo(nil); !bytes.Equal(b, s.Frame) {
		t.Fatalf("encoded to %x, want %x", b, s.Frame)
	}
	return m
}

func loadTranscripts(t testing.TB) []transcript {
	t.Helper()
	b, err := os.ReadFile("testdata/wire/transcripts.json")
	if err != nil {
		t.Fatal(err)
	}
	var file struct{ Transcripts []transcript }
	if err := json.Unmarshal(b, &file); err != nil {
		t.Fatal(err)
	}
	return file.Transcripts
}

func TestTranscriptsAreFollowed(t *testing.T) {
	transcripts := loadTranscripts(t)
	var names []string
	for _, script := range transcripts {
		names = append(names, script.Name)
	}
	for name := range transcriptCallers {
		if !slices.Contains(names, name) {
			t.Errorf("no conversation is called %q", name)
		}
	}
	for _, role := range []struct {
		name  string
		open  func(*testing.T) (*Manager, *player)
		calls bool // the node does
	}{
		{"node accepts and answers", dialNode, false},
		{"node dials and calls", acceptNode, true},
		{"node accepts and calls", dialNode, true},
		{"node dials and answers", acceptNode, false},
	} {
		for _, g := range generations {
			t.Run(role.name+"/"+g.name, func(t *testing.T) {
				for _, script := range transcripts {
					t.Run(script.Name, func(t *testing.T) {
						m, p := role.open(t)
						register := registerTranscriptHandlers
						if role.calls {
							register = registerTranscriptCallers
						}
						if err := register(m); err != nil {
							t.Fatal(err)
						}
						checkHandshakeBytes(t, script)
						p.handshake(m, g)
						if role.calls {
							p.playAnswers(m.Connection(p.Name), script)
						} else {
							p.play(script, false)
							p.expectNothing()
						}
						p.expectEnd(m)
					})
				}
			})
		}
	}
}

// checkHandshakeBytes reports whether the payloads of the handshake are the
// script's, byte for byte. The players' own handshakes have other IDs and hosts in them.
func checkHandshakeBytes(t *testing.T, script transcript) {
	t.Helper()
	connect, answer := script.Steps[0].message(t), script.Steps[1].message(t)
	var req connectReq
	var resp connectResp
	if _, err := req.UnmarshalMsg(connect.Payload); err != nil {
		t.Fatal(err)
	}
	if _, err := resp.UnmarshalMsg(answer.Payload); err != nil {
		t.Fatal(err)
	}
	if b := encoded(t, &req); connect.Op != OpConnect || !bytes.Equal(b, connect.Payload) {
		t.Fatalf("handshake encoded to %x, want %x", b, connect.Payload)
	}
	if b := encoded(t, &resp); answer.Op != OpConnectResponse || !resp.Accepted || !bytes.Equal(b, answer.Payload) {
		t.Fatalf("its answer encoded to %x, want %x", b, answer.Payload)
	}
}

// playAnswers plays the answering side of a script while the node calls.
func (p *player) playAnswers(conn *Connection, script transcript) {
	p.t.Helper()
	call, ok := transcriptCallers[script.Name]
	if !ok {
		p.t.Fatal("nobody knows how to make the calls of this conversation")
	}
	ctx, cancel := context.WithTimeout(p.t.Context(), testkit.Patience)
	defer cancel()
	if err := conn.WaitForConnect(ctx); err != nil {
		p.t.Fatal(err)
	}
	result := make(chan error, 1)
	go func() { result <- call(p.t.Context(), conn) }()
	p.play(script, true)
	select {
	case err := <-result:
		if err != nil {
			p.t.Error(err)
		}
	case <-ctx.Done():
		p.t.Fatal("the call does not return")
	}
	if script.Name == transcriptCanceled {
		p.expectNothing(OpDisconnectServerMux) // callees of the original ignore it
	} else {
		p.expectNothing()
	}
}

// play sends the steps of one side of a script, each once the node has sent
// all steps before it, and compares those of the node.
func (p *player) play(script transcript, nodeCalls bool) {
	p.t.Helper()
	numbers := make(map[uint64]uint64) // of muxes: the script's to the node's
	var merged []message               // steps to be sent in one frame
	for i := 2; i < len(script.Steps); i++ {
		step := &script.Steps[i]
		want := step.message(p.t)
		if step.fromCaller() != nodeCalls {
			if nodeCalls {
				want.MuxID = numbers[want.MuxID]
			}
			merged = append(merged, want)
			if next := i + 1; !step.merged() || next == len(script.Steps) ||
				!script.Steps[next].merged() || script.Steps[next].Dir != step.Dir {
				p.send(merged...)
				merged = nil
			}
			continue
		}
		name := fmt.Sprintf("step %d, %s", i, step.Op)
		got := p.receive()
		if nodeCalls {
			if _, known := numbers[want.MuxID]; !known {
				if got.MuxID < 1<<31 {
					p.t.Errorf("%s: mux %d could be one of the peer's own", name, got.MuxID)
				}
				numbers[want.MuxID] = got.MuxID
			}
			want.MuxID = numbers[want.MuxID]
		}
		want.DeadlineMS = sameDeadline(got.DeadlineMS, want.DeadlineMS)
		p.compare(name, got, want)
	}
}

// sameDeadline returns the deadline that the node may well have sent: got,
// where the caller has just a little less time left than in the script, which rounds it down.
func sameDeadline(got, listed uint32) uint32 {
	const none, byDefault = 0, 60000 // which are constants
	if listed != none && listed != byDefault && got > 0 && got <= listed+1 {
		return got
	}
	return listed
}

// registerTranscriptHandlers registers what the conversations call.
func registerTranscriptHandlers(m *Manager) error {
	single := func(ctx context.Context, payload []byte) ([]byte, error) {
		switch string(payload) {
		case "fail":
			return nil, NewRemoteErrString("it failed")
		case "slow":
			<-ctx.Done()
			return []byte("too late"), nil
		}
		return payload, nil
	}
	onSubroute := func(payload []byte) ([]byte, *RemoteErr) {
		return append([]byte("sub:"), payload...), nil
	}
	oneWay := func(ctx context.Context, payload []byte, _ <-chan []byte, out chan<- []byte) *RemoteErr {
		switch string(payload) {
		case "3":
			for _, s := range []string{"a", "b", "c"} {
				out <- []byte(s)
			}
		case "e":
			out <- []byte("one")
			return NewRemoteErrString("stream failed")
		case "w":
			out <- []byte("one")
			<-ctx.Done()
		}
		return nil
	}
	twoWay := func(_ context.Context, _ []byte, in <-chan []byte, out chan<- []byte) *RemoteErr {
		for req := range in {
			out <- append([]byte("echo "), req...)
		}
		return nil
	}
	return errors.Join(
		m.RegisterSingleHandlerContext(transcriptSingle, single),
		m.RegisterSingleHandler(transcriptSingle, onSubroute, transcriptSubroute),
		m.RegisterStreamingHandler(transcriptOneWay, StreamHandler{Handle: oneWay, OutCapacity: 1}),
		m.RegisterStreamingHandler(transcriptTwoWay, StreamHandler{Handle: twoWay, OutCapacity: 1, InCapacity: 1}),
	)
}

// registerTranscriptCallers registers what a node needs that makes the calls: the capacities of all
// streams.
func registerTranscriptCallers(m *Manager) error {
	absent := func(context.Context, []byte, <-chan []byte, chan<- []byte) *RemoteErr { return nil }
	return errors.Join(
		registerTranscriptHandlers(m),
		m.RegisterStreamingHandler(transcriptAbsent, StreamHandler{Handle: absent, OutCapacity: 1}),
	)
}

const transcriptCanceled = "single request canceled by the caller"

// transcriptCallers make the calls of each conversation and say what is wrong with their outcome.
var transcriptCallers = map[string]func(ctx context.Context, c *Connection) error{
	"connect only": func(context.Context, *Connection) error { return nil },
	"single request": func(ctx context.Context, c *Connection) error {
		ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
		defer cancel()
		return outcome("ping me", nil)(c.Request(ctx, transcriptSingle, []byte("ping me")))
	},
	"single request, no deadline on the context": func(ctx context.Context, c *Connection) error {
		return outcome("ping me", nil)(c.Request(ctx, transcriptSingle, []byte("ping me")))
	},
	"single request, nil payload, nil response": func(ctx context.Context, c *Connection) error {
		b, err := c.Request(ctx, transcriptSingle, nil)
		if b != nil {
			return fmt.Errorf("the answer is %q, want nil", b)
		}
		return err
	},
	"single request, remote error": func(ctx context.Context, c *Connection) error {
		return outcome("", NewRemoteErrString("it failed"))(c.Request(ctx, transcriptSingle, []byte("fail")))
	},
	"single request on a subroute": func(ctx context.Context, c *Connection) error {
		return outcome("sub:sub", nil)(c.Subroute(transcriptSubroute).Request(ctx, transcriptSingle, []byte("sub")))
	},
	"single request, handler not registered": func(ctx context.Context, c *Connection) error {
		ctx, cancel := context.WithTimeout(ctx, 300*time.Millisecond)
		defer cancel()
		return outcome("", ErrUnknownHandler)(c.Request(ctx, HandlerDiskInfo, []byte("x")))
	},
	transcriptCanceled: func(ctx context.Context, c *Connection) error {
		ctx, cancel := context.WithTimeout(ctx, 50*time.Millisecond)
		defer cancel()
		return outcome("", context.DeadlineExceeded)(c.Request(ctx, transcriptSingle, []byte("slow")))
	},
	"one-way stream, three responses": func(ctx context.Context, c *Connection) error {
		return stream(ctx, c, transcriptOneWay, []byte("3"), "[a b c]", nil, nil)
	},
	"one-way stream ending in an error": func(ctx context.Context, c *Connection) error {
		return stream(ctx, c, transcriptOneWay, []byte("e"), "[one]", NewRemoteErrString("stream failed"), nil)
	},
	"one-way stream canceled by the caller": func(ctx context.Context, c *Connection) error {
		ctx, cancel := context.WithCancel(ctx)
		defer cancel()
		return stream(ctx, c, transcriptOneWay, []byte("w"), "[one]", context.Canceled, func(*Stream, int) { cancel() })
	},
	"two-way stream, two requests echoed, capacity 1": func(ctx context.Context, c *Connection) error {
		return stream(ctx, c, transcriptTwoWay, []byte("init"), "[echo r1 echo r2]", nil, func(st *Stream, received int) {
			switch received {
			case 0:
				st.Requests <- []byte("r1")
			case 1:
				st.Requests <- []byte("r2")
				close(st.Requests)
			}
		})
	},
	"two-way stream, empty payloads": func(ctx context.Context, c *Connection) error {
		return stream(ctx, c, transcriptTwoWay, []byte{}, "[echo ]", nil, func(st *Stream, received int) {
			if received == 0 {
				st.Requests <- []byte{}
				close(st.Requests)
			}
		})
	},
	"stream, handler not registered on the remote": func(ctx context.Context, c *Connection) error {
		return stream(ctx, c, transcriptAbsent, nil, "[]", ErrUnknownHandler, nil)
	},
}

// outcome compares the outcome of a request.
func outcome(want string, wantErr error) func([]byte, error) error {
	return func(got []byte, err error) error {
		if !errors.Is(err, wantErr) || string(got) != want {
			return fmt.Errorf("the call returned %q and error %w, want %q and %w", got, err, want, wantErr)
		}
		return nil
	}
}

// stream opens a stream, calls act before and after each message with their
// number so far, and compares the messages and how the stream ends.
func stream(ctx context.Context, c *Connection, h HandlerID, payload []byte, want string, wantErr error, act func(st *Stream, received int)) error {
	st, err := c.NewStream(ctx, h, payload)
	if err != nil {
		return err
	}
	if act == nil {
		act = func(*Stream, int) {}
	}
	if st.Requests != nil {
		act(st, 0)
	}
	got := []string{}
	err = st.Results(func(b []byte) error {
		got = append(got, string(b))
		act(st, len(got))
		return nil
	})
	if !errors.Is(err, wantErr) || fmt.Sprint(got) != want {
		return fmt.Errorf("the stream gave %q and error %w, want %s and %w", got, err, want, wantErr)
	}
	return nil
}
