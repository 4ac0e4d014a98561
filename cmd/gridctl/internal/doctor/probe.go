package doctor

import (
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"net"
	"net/url"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/zeebo/xxh3"

	"github.com/gridmesh/grid/cmd/gridctl/internal/wire"
	"github.com/gridmesh/grid/internal/wsframe"
)

// processID is what tells one process of a name from another.
type processID [16]byte

// probe examines a host at one of its addresses.
type probe struct {
	*visit
	address string
	several bool // the host has other addresses
	clocked bool // the clock was looked at
	process processID
}

// ourID is that of this process, for nodes that it connects to.
var ourID = func() (id processID) {
	rand.Read(id[:])
	return id
}()

// guestName is the name that nodes see which take guests.
var guestName = "gridctl-doctor-" + hex.EncodeToString(ourID[:4])

func (p *probe) problem(format string, a ...any) {
	p.report.add(Problem, p.at()+fmt.Sprintf(format, a...))
}

func (p *probe) note(format string, a ...any) { p.report.add(Note, p.at()+fmt.Sprintf(format, a...)) }

// at says which address a finding is about, where there are several.
func (p *probe) at() string {
	if p.several {
		return "at " + p.address + ": "
	}
	return ""
}

// run reports whether the handshake was reached.
func (p *probe) run() bool {
	if !p.knock() {
		return false
	}
	name := guestName
	if p.Guest {
		name = p.Local
	}
	met, ok := p.meet(name)
	if !ok {
		return false
	}
	p.learn(&met)
	switch {
	case p.strays(&met):
		return true
	case p.Guest:
		p.judgeGuest(&met)
		return true
	case p.report.Host == p.Local || p.report.links != nil:
		return true // it does not connect to itself, or has told who it is connected to
	}
	if met, ok = p.meet(p.Local); ok {
		p.learn(&met)
		p.judgeHost(&met)
	}
	return ok
}

// meeting is how a handshake went.
type meeting struct {
	wire.Response
	facts     *wire.Facts
	roundTrip time.Duration
	links     map[string]link
}

// meet goes through a handshake under a name, and asks what the node tells then.
func (p *probe) meet(name string) (m meeting, ok bool) {
	t, ok := p.upgrade()
	if !ok {
		return m, false
	}
	defer t.close()
	var err error
	m.Response, err = t.introduce(wire.Connect{
		ID: ourID, Host: name, Time: time.Now(), Token: p.Secret, Grid: ourFeatures, To: p.report.Host, Max: maxMessage,
	})
	if err == nil && m.Accepted {
		err = p.ask(t, &m)
	}
	if err != nil {
		p.problem("%s", p.talkProblem(err))
		return m, false
	}
	return m, true
}

// ask asks a node that has accepted this one.
func (p *probe) ask(t *talk, m *meeting) (err error) {
	if m.Grid&wire.FeatureFacts != 0 {
		if err = t.exchangeFacts(); err != nil {
			return err
		}
	}
	if m.roundTrip, err = t.ping(); err != nil {
		return err
	}
	m.links, err = t.links()
	m.facts = t.facts
	return err
}

func (p *probe) talkProblem(err error) string {
	var closed *wsframe.CloseError
	var op *net.OpError
	switch {
	case isTimeout(err):
		return "it opens a WebSocket, but does not answer the handshake within " + p.Timeout.String() + "; does the proxy on the way pass data on at once, and is that a node?"
	case errors.As(err, &closed):
		return "it closed the connection during the handshake: " + closed.Error() + "; its log says why"
	case p.tlsProblem(err) != "":
		return p.tlsProblem(err)
	case errors.As(err, &op):
		return "the connection was cut during the handshake (" + op.Err.Error() + "); look at what is on the way, and at the log there"
	}
	return "the handshake failed: " + err.Error() + "; is that a node?"
}

// learn keeps what a node has told of itself.
func (p *probe) learn(m *meeting) {
	r := p.report
	if m.ID != (processID{}) {
		p.process, r.process, r.answered = m.ID, m.ID, true
	}
	if m.Grid != 0 {
		r.native, r.largest, r.Features = true, m.Max, wire.FeatureNames(m.Grid)
	}
	if m.roundTrip > 0 {
		r.RoundTrip = m.roundTrip
	}
	if m.facts != nil {
		r.Version, r.Labels = m.facts.Version, m.facts.Labels
		if m.facts.Draining {
			p.note("it is draining: it is about to go")
		}
	}
	if m.links != nil {
		r.links = m.links
	}
}

// strays reports whether another node than the one that was meant has answered.
func (p *probe) strays(m *meeting) bool {
	if m.Host == "" || m.Host == p.report.Host || p.Guest {
		return false
	}
	p.problem("the node there is %s; names are compared as text, so correct it in -hosts, or DNS, or what is on the way", m.Host)
	return true
}

// What nodes say when they reject a handshake.
const (
	saysNothing = "rejected"
	saysUnknown = "unknown incoming host"
	saysOther   = "should not dial"
	saysEarlier = "calls of an earlier connection"
	saysAnother = "another process with the name"

	seeItsLog = "; its log says why, in a line with \"peer rejected\""
)

func (p *probe) judgeGuest(m *meeting) {
	switch reason := m.Reason; {
	case m.Accepted:
	case reason == saysUnknown:
		p.problem("%s", NoGuests)
	case strings.Contains(reason, saysAnother):
		p.judgeTwin(reason)
	case reason == saysNothing || reason == "":
		p.problem("it rejected this guest%s", seeItsLog)
	default:
		p.problem("it rejected this guest: %s", reason)
	}
}

func (p *probe) judgeHost(m *meeting) {
	dialed := dials(p.report.Host, p.Local) // it opens the connection
	switch reason := m.Reason; {
	case m.Accepted:
	case reason == saysUnknown:
		p.problem("it does not have %s among its hosts; add it there, in the same spelling", p.Local)
	case strings.Contains(reason, saysOther) && dialed:
		p.note("it dials %s; run this there to see whether it gets through", p.Local)
	case strings.Contains(reason, saysOther):
		p.problem("it says that it dials %s, which should dial it; are both of one version?", p.Local)
	case strings.Contains(reason, saysAnother):
		p.judgeTwin(reason)
	case strings.Contains(reason, saysEarlier):
		p.note("it is ending an earlier connection of %s", p.Local)
	case reason == saysNothing || reason == "":
		p.problem("it rejected %s%s", p.Local, seeItsLog)
	default:
		p.problem("it rejected %s: %s", p.Local, reason)
	}
}

// twinAddress finds the address in what a node says of another process with one name.
var twinAddress = regexp.MustCompile(`is connected, from (\S+)$`)

// judgeTwin looks at who is connected under the name that is examined. That is as it should be if it
// is the node itself.
func (p *probe) judgeTwin(reason string) {
	m := twinAddress.FindStringSubmatch(reason)
	if m == nil {
		p.problem("%s", reason)
		return
	}
	if own := p.ownAddresses(); own != nil && !slices.Contains(own, hostOf(m[1])) {
		p.problem("a process at %s is connected to it as %s, whose address is %s; unless a proxy is between them, two processes have one name: stop one",
			m[1], p.Local, strings.Join(own, ", "))
		return
	}
	p.note("%s is connected to it, from %s", p.Local, m[1])
}

// ownAddresses are those of the node that is examined, nil if that is not known. A node on this
// machine may come from any address of it.
func (p *probe) ownAddresses() (all []string) {
	if p.Guest {
		return nil
	}
	own := *p.visit
	own.report = &Report{Host: p.Local}
	var err error
	if own.url, err = url.Parse(p.Local); err != nil {
		return nil
	}
	addresses, err := own.resolve()
	if err != nil {
		return nil
	}
	for _, a := range addresses {
		all = append(all, hostOf(a))
	}
	var here []string
	interfaces, _ := net.InterfaceAddrs()
	for _, a := range interfaces {
		if n, ok := a.(*net.IPNet); ok {
			here = append(here, n.IP.String())
		}
	}
	if slices.ContainsFunc(all, func(a string) bool { return slices.Contains(here, a) }) {
		all = append(all, here...)
	}
	slices.Sort(all)
	return slices.Compact(all)
}

// dials reports whether a dials b, of two hosts.
func dials(a, b string) bool {
	ours, theirs := xxh3.HashString(a+b), xxh3.HashString(b+a)
	if ours == theirs {
		return a < b
	}
	return ours < theirs
}
