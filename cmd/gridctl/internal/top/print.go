package top

import (
	"context"
	"fmt"
	"io"
	"time"

	"github.com/gridmesh/grid/debugz"
)

// Options say what is shown.
type Options struct {
	Page     *Page
	Interval time.Duration // between looks
	Filter   string
}

// firstPause is the pause after a first look that knows nothing of the last minute.
const firstPause = 2 * time.Second

// printWidth is the width of what is printed: nothing is left out.
const printWidth = 1 << 20

// Print writes all tables once.
func Print(ctx context.Context, w io.Writer, o Options) error {
	s, err := o.Page.status(ctx)
	if err != nil {
		return err
	}
	if len(s.Peers) > 0 && s.Peers[0].Minute.Over == 0 {
		select {
		case <-time.After(firstPause):
		case <-ctx.Done():
			return context.Cause(ctx)
		}
		if s, err = o.Page.status(ctx); err != nil {
			return err
		}
	}
	snap := newSnapshot(s)
	for i, v := range views {
		if i > 0 {
			fmt.Fprintln(w)
		}
		t := v.table(snap, minute)
		t.filter(o.Filter)
		t.sort(v.order, false)
		title := v.name
		if v.name != "errors" {
			title += ", " + known(s, minute)
		}
		fmt.Fprintln(w, title)
		asIs := func(s string, _ mood) string { return s }
		for _, line := range t.lines(printWidth, asIs, func(s string, _ column) string { return s }) {
			if _, err := fmt.Fprintln(w, "  "+line); err != nil {
				return err
			}
		}
	}
	return nil
}

// known says how much is known of a span.
func known(s *debugz.Status, of span) string {
	if of == sinceStart {
		return "since the start"
	}
	over := time.Duration(0)
	if len(s.Peers) > 0 {
		p := &s.Peers[0]
		f, _, _ := of.ofPeer(s, p)
		over = f.over
	}
	length := map[span]time.Duration{tenSeconds: 10 * time.Second, minute: time.Minute, fiveMinutes: 5 * time.Minute}[of]
	switch {
	case over == 0:
		return "last " + of.String() + ", of which nothing is known yet"
	case over < length:
		return "last " + of.String() + ", of which " + age(over) + " are known"
	}
	return "last " + of.String()
}
