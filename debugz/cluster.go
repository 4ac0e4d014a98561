package debugz

import (
	"context"
	"encoding/json"
	"errors"
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
}

// Bounds of asking other nodes.
const (
	rowTimeout = 500 * time.Millisecond
	rowAge     = 800 * time.Millisecond // how old an answer may be
	maxRowSize = 256 << 10              // bytes
)

// RegisterCluster lets other nodes ask this one for its connections, through a single handler under
// an ID that nothing else uses, which it names "debugz". All nodes must use the same ID, and set it
// as Options.Cluster.
func RegisterCluster(m *grid.Manager, id grid.HandlerID) error {
	err := m.RegisterSingleHandler(id, func(payload []byte) ([]byte, *grid.RemoteErr) {
		grid.PutByteBuffer(payload)
		stats := m.Stats()
		b, err := json.Marshal(linksOf(&stats))
		if err != nil {
			return nil, grid.NewRemoteErr(err)
		}
		return b, nil
	})
	if err != nil {
		return err
	}
	return grid.NameHandler(id, "debugz")
}

func linksOf(stats *grid.Stats) map[string]Link {
	links := make(map[string]Link, len(stats.Peers))
	for _, p := range stats.Peers {
		links[p.Remote] = linkOf(&p)
	}
	return links
}

func linkOf(p *grid.ConnectionStats) Link {
	return Link{p.State, p.RoundTrip, p.State == grid.StateConnectionError && p.Connects == 0}
}

// text is the state of a link in words.
func (l Link) text() string {
	switch l.State {
	case grid.StateConnected:
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

// cluster asks other nodes on behalf of the viewers of the page, no more often than necessary. Its
// zero value is ready.
type cluster struct {
	mu    sync.Mutex // Protects following.
	asked time.Time  // when the last round of questions began
	peers []Row      // its answers
}

// rows returns this node's row and those of its peers, which it asks unless handler is 0.
func (c *cluster) rows(m *grid.Manager, stats *grid.Stats, handler grid.HandlerID) []Row {
	c.mu.Lock()
	peers, due := c.peers, time.Since(c.asked) > rowAge
	if due {
		c.asked = time.Now()
	}
	c.mu.Unlock()
	if due {
		peers = ask(m, stats, handler)
		c.mu.Lock()
		c.peers = peers
		c.mu.Unlock()
	}
	if len(peers) != len(stats.Peers) { // somebody else is asking for the first time
		peers = ask(m, stats, 0)
	}
	return append([]Row{{Node: stats.Local, Known: true, Links: linksOf(stats)}}, peers...)
}

// ask asks all connected peers. Others may share the answers, so it does not end with the request
// that started it.
func ask(m *grid.Manager, stats *grid.Stats, handler grid.HandlerID) []Row {
	ctx, cancel := context.WithTimeout(context.Background(), rowTimeout)
	defer cancel()
	rows := make([]Row, len(stats.Peers))
	var wg sync.WaitGroup
	for i, p := range stats.Peers {
		rows[i].Node = p.Remote
		if handler == 0 || p.State != grid.StateConnected {
			continue
		}
		wg.Go(func() {
			links, err := askPeer(ctx, m.Connection(p.Remote), handler)
			if err == nil {
				rows[i].Known, rows[i].Links = true, known(links, stats)
			}
		})
	}
	wg.Wait()
	return rows
}

func askPeer(ctx context.Context, conn *grid.Connection, handler grid.HandlerID) (links map[string]Link, err error) {
	b, err := conn.Request(ctx, handler, nil)
	if err != nil {
		return nil, err
	}
	defer grid.PutByteBuffer(b)
	if len(b) > maxRowSize {
		return nil, errors.New("debugz: too long an answer")
	}
	err = json.Unmarshal(b, &links)
	return links, err
}

// known drops links to nodes that this one does not know, and round trips that nobody has measured.
func known(links map[string]Link, stats *grid.Stats) map[string]Link {
	kept := make(map[string]Link, len(stats.Peers))
	keep := func(name string) {
		if l, ok := links[name]; ok {
			l.RoundTrip = max(l.RoundTrip, 0)
			kept[name] = l
		}
	}
	keep(stats.Local)
	for _, p := range stats.Peers {
		keep(p.Remote)
	}
	return kept
}
