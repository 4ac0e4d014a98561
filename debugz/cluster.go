package debugz

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/url"
	"slices"
	"sync"
	"time"

	"github.com/gridmesh/grid"
)

// Row is what one node reports about its connections.
type Row struct {
	// Node is the name of the node.
	Node string
	// Known reports whether the node could be asked.
	Known bool
	// Page is the address of the node's own page; empty if it has not told, or for this node.
	Page string
	// Links are its connections, by the name of the other node.
	Links map[string]Link
}

// Link is a connection as one of its ends sees it.
type Link struct {
	State grid.State
	// RoundTrip is how long the other end took to answer the last ping; 0 if it has not.
	RoundTrip time.Duration
	// Absent reports whether the other end is overdue: it should have connected and has not yet.
	Absent bool
	// Silent is how long the other end has left a ping without an answer: see Peer.Silent.
	Silent time.Duration
}

// Bounds of asking other nodes.
const (
	rowTimeout = 500 * time.Millisecond // for an answer
	rowWait    = 250 * time.Millisecond // before the page goes without it
	rowAge     = 800 * time.Millisecond // how old an answer may be
	maxRowSize = 256 << 10              // bytes
	maxPageLen = 1 << 10                // bytes of an address
)

// The methods by which nodes ask each other.
const (
	clusterMethod = "debugz.Cluster"
	statusMethod  = "debugz.Status"
)

// report is the answer of clusterMethod.
type report struct {
	Page  string `json:",omitempty"`
	Links map[string]Link
}

// RegisterCluster lets other nodes ask this one for its connections and what it counts, by the methods
// "debugz.Cluster" and "debugz.Status". Call it on all nodes, and set Options.Cluster. page is the
// address of this node's own page, to which the pages of the others link, such as
// "https://node1:9000/debug/grid/"; there is none if it is left out
// or empty. Guests are told the connections
// only.
func RegisterCluster(m *grid.Manager, page ...string) error {
	r := report{}
	if len(page) > 0 && page[0] != "" {
		if r.Page = page[0]; pageAddress(r.Page) == "" {
			return fmt.Errorf("debugz: %.100q is not the address of a page: it must be an http or https URL", r.Page)
		}
	}
	err := m.Handle(clusterMethod, func(_ context.Context, payload []byte) ([]byte, error) {
		grid.PutByteBuffer(payload)
		stats := m.Stats()
		return json.Marshal(report{r.Page, linksOf(&stats)})
	})
	if err != nil {
		return err
	}
	o := &observer{m: m}
	return m.Handle(statusMethod, func(ctx context.Context, payload []byte) ([]byte, error) {
		grid.PutByteBuffer(payload)
		if caller := grid.GetCaller(ctx); caller == nil || !slices.Contains(m.Targets(), caller.Name) {
			return nil, grid.Errorf(grid.PermissionDenied, "only nodes are told")
		}
		s := o.look().Status
		s.keep(nil)
		return json.Marshal(s)
	})
}

// pageAddress returns the address of a page as far as it may be linked to; empty if it may not.
func pageAddress(page string) string {
	u, err := url.Parse(page)
	if err != nil || len(page) > maxPageLen || u.Host == "" || u.Scheme != "http" && u.Scheme != "https" {
		return ""
	}
	return u.String()
}

func linksOf(stats *grid.Stats) map[string]Link {
	links := make(map[string]Link, len(stats.Peers))
	for _, p := range stats.Peers {
		links[p.Remote] = linkOf(&p)
	}
	return links
}

func linkOf(p *grid.ConnectionStats) Link {
	return Link{p.State, p.RoundTrip, p.State == grid.StateConnectionError && p.Connects == 0, silence(p)}
}

// text is the state of a link in words.
func (l Link) text() string {
	switch l.State {
	case grid.StateConnected:
		if l.Silent > 0 {
			return "silent"
		}
		return "connected"
	case grid.StateConnecting:
		return "connecting"
	case grid.StateConnectionError:
		if l.Absent {
			return "absent"
		}
		return "lost"
	case grid.StateShutdown:
		return "shut down"
	}
	return "waiting"
}

// mood is its color.
func (l Link) mood() string {
	switch l.State {
	case grid.StateConnected:
		if l.Silent > 0 {
			return moodBad
		}
		return moodGood
	case grid.StateConnectionError:
		return moodBad
	case grid.StateShutdown:
		return moodNone
	}
	return moodWarn
}

// cluster asks other nodes on behalf of the viewers of the page, no more often than necessary. Its
// zero value is ready.
type cluster struct {
	mu    sync.Mutex // Protects following.
	peers map[string]*asked
}

// asked is a peer that has been asked.
type asked struct {
	began   time.Time     // when it was asked last
	done    chan struct{} // closed when that has come to an end
	answers bool          // it did, the last time but for the one that has not come to an end
	report  report        // its last answer
}

// rows returns this node's row and those of its peers, which it asks if others is set.
func (c *cluster) rows(m *grid.Manager, peers []Peer, others bool) []Row {
	own := Row{Node: m.HostName(), Known: true, Links: make(map[string]Link, len(peers))}
	rows := make([]Row, 1, len(peers)+1)
	for i := range peers {
		own.Links[peers[i].Remote] = linkOf(&peers[i].ConnectionStats)
		rows = append(rows, Row{Node: peers[i].Remote})
	}
	rows[0] = own
	if others {
		c.ask(m, peers)
		c.mu.Lock()
		defer c.mu.Unlock()
		for i := range rows[1:] {
			row := &rows[i+1]
			if a := c.peers[row.Node]; a != nil && a.answers && own.Links[row.Node].State == grid.StateConnected {
				row.Known, row.Page, row.Links = true, a.report.Page, known(a.report.Links, own)
			}
		}
	}
	return rows
}

// ask asks all connected peers, except those that were asked a moment ago or still owe an answer, and
// waits a little for the answers.
func (c *cluster) ask(m *grid.Manager, peers []Peer) {
	var pending []chan struct{}
	now := time.Now()
	c.mu.Lock()
	was := c.peers
	c.peers = make(map[string]*asked, len(peers)) // without those that were removed
	for i := range peers {
		name := peers[i].Remote
		a := was[name]
		if a == nil {
			a = &asked{}
		}
		c.peers[name] = a
		if peers[i].State == grid.StateConnected && a.done == nil && now.Sub(a.began) > rowAge {
			a.began, a.done = now, make(chan struct{})
			go c.askOne(m.Connection(name), a, a.done)
		}
		if a.done != nil {
			pending = append(pending, a.done)
		}
	}
	c.mu.Unlock()
	enough := time.NewTimer(rowWait)
	defer enough.Stop()
	for _, done := range pending {
		select {
		case <-done:
		case <-enough.C:
			return
		}
	}
}

// askOne asks one peer. Others may share the answer, so it does not end with the request that started
// it.
func (c *cluster) askOne(conn *grid.Connection, a *asked, done chan struct{}) {
	ctx, cancel := context.WithTimeout(context.Background(), rowTimeout)
	defer cancel()
	r, err := askPeer(ctx, conn)
	c.mu.Lock()
	defer c.mu.Unlock()
	a.report, a.answers, a.done = r, err == nil, nil
	close(done)
}

func askPeer(ctx context.Context, conn *grid.Connection) (r report, err error) {
	err = ask(ctx, conn, clusterMethod, maxRowSize, &r)
	if err == nil && r.Links == nil {
		err = errors.New("debugz: an answer without connections")
	}
	r.Page = pageAddress(r.Page)
	return r, err
}

// ask decodes what a method of another node answers, which is JSON, into a value. Longer answers than
// a number of bytes are errors.
func ask(ctx context.Context, conn *grid.Connection, method string, most int, into any) error {
	b, err := conn.Call(ctx, method, nil)
	if err != nil {
		return err
	}
	defer grid.PutByteBuffer(b)
	if len(b) > most {
		return errors.New("debugz: too long an answer")
	}
	return json.Unmarshal(b, into)
}

// known drops links to nodes that this one does not know, and times that nobody has measured.
func known(links map[string]Link, own Row) map[string]Link {
	kept := make(map[string]Link, len(own.Links))
	keep := func(name string) {
		if l, ok := links[name]; ok {
			l.RoundTrip, l.Silent = max(l.RoundTrip, 0), max(l.Silent, 0)
			kept[name] = l
		}
	}
	keep(own.Node)
	for name := range own.Links {
		keep(name)
	}
	return kept
}
