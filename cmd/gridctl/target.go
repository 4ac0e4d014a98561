package main

import (
	"cmp"
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"flag"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"time"

	"github.com/gridmesh/grid"
	"github.com/gridmesh/grid/cmd/gridctl/internal/doctor"
)

// targetConfig says which nodes a command asks something, and as whom: as a guest, or as one of the
// hosts.
type targetConfig struct {
	member memberConfig
	to     string
	path   string
	wait   time.Duration

	targets []string // from to, by check
}

func (c *targetConfig) addTo(fs *flag.FlagSet, to string) {
	c.wait = 5 * time.Second
	fs.StringVar(&c.to, "to", "", to)
	fs.StringVar(&c.member.local, "local", "", "the `name` to ask under: of a guest, without a colon (default: gridctl- and a random number),\nor the URL of a host that is not running, with -hosts")
	fs.StringVar(&c.member.hostList, "hosts", "", "the `URLs` of all nodes, with commas between them, for -local URL: then the nodes need not accept guests")
	c.member.addAccess(fs)
	fs.StringVar(&c.path, "path", grid.RoutePath, "the `path` at which nodes connect to each other")
	fs.Var((*duration)(&c.wait), "wait", "how long to wait for the connection, a `time`")
}

// guest reports whether the command comes as a guest.
func (c *targetConfig) guest() bool { return c.member.hostList == "" }

// check completes the configuration.
func (c *targetConfig) check() error {
	for name := range strings.SplitSeq(c.to, ",") {
		if strings.TrimSpace(name) == "" {
			continue
		}
		name, err := cleanHost("-to", name)
		if err != nil {
			return err
		}
		if !slices.Contains(c.targets, name) {
			c.targets = append(c.targets, name)
		}
	}
	switch m := &c.member; {
	case len(c.targets) == 0:
		return cannotStart("-to is missing; it is the URL of the node to ask, such as -to http://127.0.0.1:9001")
	case c.wait <= 0:
		return cannotStart("-wait %v is too short; try 5s", c.wait)
	case !strings.HasPrefix(c.path, "/"):
		return cannotStart("-path %s does not start with a slash", c.path)
	case !c.guest():
	case strings.Contains(m.local, ":"):
		return cannotStart("-local %s is the URL of a host; name all of them with -hosts, or leave both out to come as a guest", m.local)
	case m.listen != "" || m.certFile != "" || m.keyFile != "":
		return cannotStart("-listen, -cert and -key are for a host; give -local URL and -hosts too, or leave them out to come as a guest")
	default:
		m.join = c.to
		m.local = cmp.Or(m.local, guestName())
	}
	c.member.path = c.path
	if err := c.member.check(); err != nil {
		return err
	}
	for _, name := range c.targets {
		switch {
		case c.guest():
		case !slices.Contains(c.member.hosts, name):
			return cannotStart("-to %s is not one of -hosts %s", name, strings.Join(c.member.hosts, ","))
		case name == c.member.local:
			return cannotStart("-to %s is -local itself", name)
		}
	}
	return nil
}

// guestName is a name that no other guest has.
func guestName() string {
	var b [4]byte
	rand.Read(b[:])
	return "gridctl-" + hex.EncodeToString(b[:])
}

// connect connects to the targets, or says what keeps this process from it.
func (c *targetConfig) connect(ctx context.Context, handlers ...func(*grid.Manager) error) (*member, error) {
	n, err := c.start(handlers)
	if err != nil {
		return nil, err
	}
	end := time.Now().Add(c.wait)
	missing := c.missing(ctx, n, min(c.wait, probeAfter))
	problems := c.ask(ctx, missing, doctor.Problem)
	if len(problems) == 0 { // then it only takes longer
		missing = c.missing(ctx, n, time.Until(end))
	}
	switch {
	case ctx.Err() != nil:
		err = errInterrupted
	case len(missing) == 0:
		return n, nil
	case len(problems) > 0:
		err = cannotStart("no connection to %s", strings.Join(problems, "; "))
	default:
		why := append(c.ask(ctx, missing, doctor.Problem, doctor.Note), fmt.Sprintf("gave up after %v", c.wait))
		err = cannotStart("no connection to %s: %s", strings.Join(missing, ", "), strings.Join(why, "; "))
	}
	_ = n.stop(time.Second) // nothing runs
	return nil, err
}

func (c *targetConfig) start(handlers []func(*grid.Manager) error) (*member, error) {
	quiet := slog.New(slog.DiscardHandler)
	if c.guest() {
		n, err := startGuest(&c.member, quiet, handlers...)
		if err != nil {
			return nil, refused(err)
		}
		return n, nil
	}
	listener, err := listen(&c.member)
	if err != nil {
		return nil, err
	}
	n, err := startMember(&c.member, listener, nil, quiet, handlers...)
	if err != nil {
		listener.Close()
		return nil, refused(err)
	}
	return n, nil
}

// missing returns the targets that are not connected after d.
func (c *targetConfig) missing(ctx context.Context, n *member, d time.Duration) (missing []string) {
	ctx, cancel := context.WithTimeout(ctx, d)
	defer cancel()
	for _, name := range c.targets {
		if n.Connection(name).WaitForConnect(ctx) != nil {
			missing = append(missing, name)
		}
	}
	return missing
}

// ask returns what is found out about nodes that are not connected.
func (c *targetConfig) ask(ctx context.Context, missing []string, levels ...doctor.Level) (texts []string) {
	if len(missing) == 0 {
		return nil
	}
	o := doctorOptions(&c.member, c.path, probeTimeout)
	o.Hosts = missing
	if !o.Guest {
		o.Hosts = append(slices.Clip(missing), o.Local)
	}
	for _, r := range doctor.Examine(ctx, o) {
		for _, f := range r.Findings {
			if !slices.Contains(levels, f.Level) || r.Host == o.Local {
				continue
			}
			text := r.Host + ": " + f.Text
			if strings.HasSuffix(text, doctor.NoGuests) {
				text += "; or come as one of its hosts that is not running, with -local URL and -hosts"
			}
			texts = append(texts, text)
		}
	}
	return texts
}

// denied explains an error of the methods that debugz.RegisterTools offers.
func denied(host, what string, err error) error {
	switch {
	case errors.Is(err, grid.ErrUnknownHandler):
		return fmt.Errorf("%s does not offer %s: it has to call debugz.RegisterTools, as gridctl node does with -tools", host, what)
	case errors.Is(err, grid.PermissionDenied):
		return fmt.Errorf("%s: %w", host, err)
	}
	return err
}
