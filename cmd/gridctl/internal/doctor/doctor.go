// Package doctor finds out what stands between a node and the others of its grid. It opens
// connections of its own to each of them, step by step as a node does: the name, the network, TLS,
// HTTP, the secret, the WebSocket, the handshake. It makes no calls but one, "debugz.Cluster", where
// a node has that.
package doctor

import (
	"context"
	"crypto/tls"
	"net"
	"sync"
	"time"
)

// Options says who asks, and whom.
type Options struct {
	// Local is the name of the node that is examined: one of Hosts, or of a guest.
	Local string
	Guest bool
	// Hosts are the nodes to examine. Local is among them unless it is a guest.
	Hosts []string
	// Secret is the bearer token that nodes show each other; empty for none.
	Secret string
	// TLS is for names with https.
	TLS *tls.Config
	// Path is the route path of the nodes.
	Path string
	// Timeout bounds each step.
	Timeout time.Duration

	lookup func(ctx context.Context, name string) ([]string, error) // of the system, unless tests set it
}

// Level is how bad a finding is.
type Level string

const (
	OK      Level = "ok"
	Note    Level = "note" // worth knowing, and no reason to act now
	Problem Level = "problem"
)

// NoGuests is the text of a finding.
const NoGuests = "it accepts no guests; set ManagerOptions.AcceptGuest there, or start gridctl node with -accept-guests"

// Finding is one thing that was found, in one line that says what to do about it.
type Finding struct {
	Level Level  `json:"level"`
	Text  string `json:"text"`
}

// Report is what was found at one host. What is not known is zero.
type Report struct {
	Host      string            `json:"host"`
	Addresses []string          `json:"addresses,omitempty"`
	Connect   time.Duration     `json:"connect_ns,omitempty"` // that opening a network connection took
	RoundTrip time.Duration     `json:"round_trip_ns,omitempty"`
	Clock     time.Duration     `json:"clock_ns,omitempty"` // how far its clock is ahead, to a second or so
	Version   string            `json:"version,omitempty"`
	Labels    map[string]string `json:"labels,omitempty"`
	Features  []string          `json:"features,omitempty"`
	Findings  []Finding         `json:"findings"`

	process  processID       // of the node that answered
	largest  uint32          // bytes of a message that it takes
	links    map[string]link // its connections, as it says; nil if it does not
	answered bool            // it said who it is
	native   bool            // it is a node of this project
}

// Well reports whether there is no problem.
func (r *Report) Well() bool {
	for _, f := range r.Findings {
		if f.Level == Problem {
			return false
		}
	}
	return true
}

func (r *Report) add(level Level, text string) {
	for _, f := range r.Findings {
		if f.Text == text {
			return
		}
	}
	r.Findings = append(r.Findings, Finding{level, text})
}

// Examine examines all hosts at the same time.
func Examine(ctx context.Context, o Options) []Report {
	if o.lookup == nil {
		o.lookup = net.DefaultResolver.LookupHost
	}
	reports := make([]Report, len(o.Hosts))
	var wg sync.WaitGroup
	for i, host := range o.Hosts {
		wg.Go(func() {
			v := visit{Options: &o, ctx: ctx, report: &reports[i]}
			v.report.Host = host
			v.run()
		})
	}
	wg.Wait()
	compare(&o, reports)
	for i := range reports {
		sum(&o, &reports[i])
	}
	return reports
}
