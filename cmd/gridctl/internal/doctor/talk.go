package doctor

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"slices"
	"time"

	"github.com/gobwas/ws"

	"github.com/gridmesh/grid"
	"github.com/gridmesh/grid/cmd/gridctl/internal/wire"
	"github.com/gridmesh/grid/internal/wsframe"
)

const (
	maxMessage = 4 << 20 // bytes of a message that a talk takes
	pings      = 5
	// ourFeatures is what a talk can do: it takes no message in pieces, and no streams.
	ourFeatures = wire.FeatureNative | wire.FeatureMetadata | wire.FeatureErrors | wire.FeatureFacts
)

// talk is a WebSocket to a node.
type talk struct {
	conn    net.Conn
	frames  *wsframe.Reader
	timeout time.Duration
	next    []wire.Message // of a frame with several
	facts   *wire.Facts    // what the node says of itself, if it does
}

func newTalk(conn net.Conn, r *bufio.Reader, timeout time.Duration) *talk {
	early, _ := r.Peek(r.Buffered())
	t := &talk{conn: conn, timeout: timeout}
	t.frames = wsframe.NewReader(conn, early, wsframe.Config{
		Client: true, MaxMessage: maxMessage,
		OnPing: func(payload []byte) {
			_, _ = conn.Write(wsframe.AppendControl(nil, ws.OpPong, payload, true, mask()))
		},
	})
	return t
}

func mask() (key [4]byte) {
	n := rand.Uint32()
	return [4]byte{byte(n), byte(n >> 8), byte(n >> 16), byte(n >> 24)}
}

// send sends a message.
func (t *talk) send(m wire.Message) error {
	b := m.Append(nil)
	key := mask()
	frame := make([]byte, wsframe.HeaderSize(len(b), true), wsframe.MaxHeaderSize+len(b))
	wsframe.PutHeader(frame, ws.OpBinary, len(b), true, key)
	wsframe.Mask(b, key)
	_, err := t.conn.Write(append(frame, b...))
	return err
}

// receive returns the next message but for those that every node has to answer.
func (t *talk) receive() (m wire.Message, err error) {
	for err == nil {
		if m, err = t.read(); err != nil {
			break
		}
		switch m.Op {
		case grid.OpPing:
			err = t.send(wire.Message{Op: grid.OpPong, Payload: []byte("\x82\xa2nf\xc2\xa1e\xc0")})
		case wire.OpFacts:
			if err = t.hear(&m); err == nil {
				err = t.send(wire.Message{Seq: m.Seq, Op: wire.OpAckFacts, Flags: grid.FlagCRCxxh3})
			}
		default:
			return m, nil
		}
	}
	return m, err
}

// read returns the next message.
func (t *talk) read() (m wire.Message, err error) {
	if len(t.next) == 0 {
		b, err := t.frames.Next()
		if err != nil {
			return m, err
		}
		if m, err = wire.Parse(slices.Clone(b)); err != nil {
			return m, fmt.Errorf("it sent what is no message of a grid: %w", err)
		}
		if m.Op != grid.OpMerged {
			return m, nil
		}
		if t.next, err = m.Merged(); err != nil {
			return m, err
		}
	}
	if len(t.next) == 0 {
		return m, errors.New("a merged message of none")
	}
	m, t.next = t.next[0], t.next[1:]
	return m, nil
}

// introduce sends a Connect and returns the answer to it.
func (t *talk) introduce(c wire.Connect) (r wire.Response, err error) {
	t.conn.SetDeadline(time.Now().Add(t.timeout))
	if err := t.send(wire.Message{Op: grid.OpConnect, Payload: c.Append(nil)}); err != nil {
		return r, err
	}
	m, err := t.read()
	if err != nil {
		return r, err
	}
	if m.Op != grid.OpConnectResponse {
		return r, fmt.Errorf("it answered with %v", m.Op)
	}
	return wire.ParseResponse(m.Payload)
}

// exchangeFacts is the rest of the handshake with a node that has wire.FeatureFacts.
func (t *talk) exchangeFacts() error {
	m, err := t.read()
	if err != nil {
		return err
	}
	if m.Op != wire.OpFacts {
		return fmt.Errorf("it sent %v in place of its facts", m.Op)
	}
	if err := t.hear(&m); err != nil {
		return err
	}
	return t.send(wire.Message{Op: wire.OpFacts, Flags: grid.FlagCRCxxh3, Payload: []byte{0x80}})
}

func (t *talk) hear(m *wire.Message) error {
	if len(m.Payload) == 0 {
		return nil // the list of handlers is final, or not any more
	}
	f, err := wire.ParseFacts(m.Payload)
	t.facts = &f
	return err
}

// ping measures the round trip: the median of several.
func (t *talk) ping() (time.Duration, error) {
	times := make([]time.Duration, pings)
	for i := range times {
		t.conn.SetDeadline(time.Now().Add(t.timeout))
		began := time.Now()
		if err := t.send(wire.Message{Op: grid.OpPing, DeadlineMS: 5000}); err != nil {
			return 0, err
		}
		m, err := t.receive()
		for err == nil && m.Op != grid.OpPong {
			m, err = t.receive()
		}
		if err != nil {
			return 0, err
		}
		times[i] = time.Since(began)
	}
	slices.Sort(times)
	return times[len(times)/2], nil
}

// handlerNamed and clusterMethod are where nodes tell of their connections: see debugz.RegisterCluster.
const (
	handlerNamed  = grid.HandlerNamed
	clusterMethod = "debugz.Cluster"
)

// link is a connection of a node, as debugz.Link.
type link struct {
	State  grid.State
	Absent bool
}

// links asks for the connections of the node, which are nil if it does not tell.
func (t *talk) links() (map[string]link, error) {
	if t.facts == nil || !slices.Contains(t.facts.Requests.Routes, wire.KeyOf(handlerNamed, clusterMethod)) {
		return nil, nil
	}
	t.conn.SetDeadline(time.Now().Add(t.timeout))
	request := wire.Message{
		MuxID: 1, DeadlineMS: uint32(t.timeout.Milliseconds()), Handler: handlerNamed, Op: grid.OpRequest,
		Flags: grid.FlagEOF | grid.FlagCRCxxh3, Subroute: wire.SubrouteOf(handlerNamed, clusterMethod),
	}
	if err := t.send(request); err != nil {
		return nil, err
	}
	m, err := t.receive()
	for err == nil && m.MuxID != request.MuxID {
		m, err = t.receive()
	}
	if err != nil || m.Op != grid.OpResponse || m.Flags&grid.FlagPayloadIsErr != 0 {
		return nil, err
	}
	var report struct{ Links map[string]link } // as debugz.Row
	err = json.Unmarshal(m.Payload, &report)
	return report.Links, err
}

// close ends the connection in good order, so that nobody takes it for lost.
func (t *talk) close() {
	defer t.conn.Close()
	defer t.frames.Release()
	t.conn.SetDeadline(time.Now().Add(time.Second))
	if t.send(wire.Message{Op: grid.OpDisconnect}) != nil {
		return
	}
	if _, err := t.conn.Write(wsframe.AppendClose(nil, ws.StatusGoingAway, "", true, mask())); err != nil {
		return
	}
	for {
		if _, err := t.frames.Next(); err != nil {
			return
		}
	}
}
