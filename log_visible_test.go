package grid

import (
	"context"
	"errors"
	"log/slog"
	"net/http"
	"strings"
	"testing"
	"unicode"

	"github.com/gridmesh/grid/internal/testkit"
)

// evilText would set the title of a terminal, clear it, add a line to a log, and turn what follows
// around.
const evilText = "evil\x1b]0;title\a\u009b2J\nlevel=INFO msg=forged \u202egnp.exe\u2066 \xff\x00"

// unseen returns the first character of a text that cannot be seen, line breaks between lines
// aside.
func unseen(text string) (rune, bool) {
	i := strings.IndexFunc(text, func(r rune) bool { return !unicode.IsPrint(r) && r != '\n' })
	if i < 0 {
		return 0, false
	}
	return []rune(text[i:])[0], true
}

// plainLog is a log handler that escapes nothing, as those of applications may.
type plainLog struct{ *testkit.LogLines }

func (plainLog) Enabled(context.Context, slog.Level) bool { return true }
func (l plainLog) WithAttrs([]slog.Attr) slog.Handler     { return l }
func (l plainLog) WithGroup(string) slog.Handler          { return l }

func (l plainLog) Handle(_ context.Context, record slog.Record) error {
	line := record.Message
	record.Attrs(func(a slog.Attr) bool {
		if a.Key != "stack" {
			line += " " + a.Key + "=" + a.Value.String()
		}
		return true
	})
	_, err := l.Write([]byte(line + "\n"))
	return err
}

// What strangers and peers say is kept and logged so that it can be seen, and controls no terminal.
func TestTextsOfPeersAreMadeVisible(t *testing.T) {
	const seen = `evil\u001b]0;title\u0007\u009b2J\nlevel=INFO msg=forged \u202egnp.exe\u2066 \xff\u0000`
	log := testkit.NewLogLines()
	l, local := listen(t)
	peer := nameThat(func(name string) bool { return shouldDial(name, local) })
	o := playerOptions(local, peer)
	o.Logger = slog.New(plainLog{log})
	o.AuthRequest = func(r *http.Request) error {
		if r.Header.Get("X-Evil") != "" {
			return errors.New("refused: " + evilText)
		}
		return nil
	}
	m := newTestNode(t, o)
	// A middleware that believes a header, as those for real addresses do.
	h := m.Handler()
	server := &http.Server{ErrorLog: slog.NewLogLogger(slog.DiscardHandler, 0), Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("X-Forwarded-For") != "" {
			r.RemoteAddr = evilText
		}
		h.ServeHTTP(w, r)
	})}
	go server.Serve(l)
	t.Cleanup(func() { server.Close() })
	address := l.Addr().String()
	testkit.Exchange(t, address, testkit.RawUpgrade(getRoute, "X-Evil: yes", "X-Forwarded-For: yes"))
	log.Wait(t, "grid: peer refused", "remote="+seen, "reason=refused: "+seen)
	testkit.Exchange(t, address, testkit.RawUpgrade(getRoute, "Origin: evil\u202e\u009b"))
	log.Wait(t, "grid: peer refused", "Origin", `evil`)

	p := dialPlayer(t, local, peer)
	p.send(message{Op: OpConnect, Payload: encoded(t, &connectReq{ID: p.ID, Host: evilText})})
	log.Wait(t, "grid: peer rejected", "host="+seen)

	p = dialPlayer(t, local, peer)
	p.handshake(m, generations[0])
	if err := m.Connection(peer).WaitForConnect(t.Context()); err != nil {
		t.Fatal(err)
	}
	call := make(chan error, 1)
	go func() {
		_, err := m.Connection(peer).Request(t.Context(), testSingle, nil)
		call <- err
	}()
	p.send(message{MuxID: p.receive().MuxID, Op: OpResponse, Flags: FlagPayloadIsErr | FlagEOF, Payload: []byte(evilText)})
	var remote *RemoteErr
	if err := <-call; !errors.As(err, &remote) || string(*remote) != evilText {
		t.Errorf("the caller gets %q, want what the handler said", err)
	}
	p.Conn.Close()
	log.Wait(t, "grid: connection")
	recent := m.RecentErrors()
	if len(recent) < 4 {
		t.Errorf("recent errors are %+v", recent)
	}
	for _, e := range recent {
		if r, bad := unseen(e.Peer + e.Text); bad || strings.Contains(e.Text, "\n") {
			t.Errorf("a recent error has %q: %q", r, e.Text)
		}
	}
	if r, bad := unseen(log.String()); bad {
		t.Errorf("%q is in the log: %q", r, log.String())
	}
	if strings.Contains(log.String(), "\nlevel=") {
		t.Errorf("a line was forged: %q", log.String())
	}
}

// What an acceptor says of why it rejects a node.
func TestReasonOfARejectionIsMadeVisible(t *testing.T) {
	log := testkit.NewLogLines()
	l, remote := listen(t)
	o := playerOptions(nameThat(func(local string) bool { return shouldDial(local, remote) }), remote)
	o.Logger = slog.New(plainLog{log})
	m := newTestNode(t, o)
	p := &player{testkit.Accept(t, l, remote), t}
	p.receive()
	p.send(message{Op: OpConnectResponse, Payload: encoded(t, &connectResp{RejectedReason: evilText})})
	log.Wait(t, "grid: cannot connect", `rejected: evil\u001b]0;title\u0007`)
	eventually(t, "the reason", func() bool { return m.Connection(remote).Stats().LastError != "" })
	if last := m.Connection(remote).Stats().LastError; strings.ContainsFunc(last, func(r rune) bool { return !unicode.IsPrint(r) }) {
		t.Errorf("LastError is %q", last)
	}
	if r, bad := unseen(log.String()); bad {
		t.Errorf("%q is in the log: %q", r, log.String())
	}
}

// A value that can be seen as it is reaches the application's handler as it is.
func TestLogKeepsValues(t *testing.T) {
	var got []slog.Attr
	log := slog.New(visibleLog{keepAttrs{&got}})
	stack := "goroutine 1\n\tmain.go:1"
	log.Warn("text", "reason", ErrDisconnected, "more", 5, "stack", stack, "dialed", true, "long", strings.Repeat("x", 1<<20), "error", errors.New("a\x1b"))
	if err, ok := got[0].Value.Any().(error); !ok || !errors.Is(err, ErrDisconnected) {
		t.Errorf("reason is %v", got[0])
	}
	for i, want := range map[int]string{1: "5", 2: stack, 3: "true", 4: strings.Repeat("x", maxLogValue) + "...", 5: `a\u001b`} {
		if got[i].Value.String() != want {
			t.Errorf("%s is %.2000q, want %q", got[i].Key, got[i].Value, want)
		}
	}
}

// keepAttrs is a log handler that keeps the attributes of the last line.
type keepAttrs struct{ attrs *[]slog.Attr }

func (keepAttrs) Enabled(context.Context, slog.Level) bool { return true }
func (k keepAttrs) WithAttrs([]slog.Attr) slog.Handler     { return k }
func (k keepAttrs) WithGroup(string) slog.Handler          { return k }

func (k keepAttrs) Handle(_ context.Context, record slog.Record) error {
	*k.attrs = nil
	record.Attrs(func(a slog.Attr) bool {
		*k.attrs = append(*k.attrs, a)
		return true
	})
	return nil
}
