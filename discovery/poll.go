package discovery

import (
	"context"
	"time"
)

const (
	defaultEvery = 5 * time.Second
	findTimeout  = 10 * time.Second
)

// Poll is a Source that asks a function again and again.
type Poll struct {
	// Find returns the names of all nodes. Its ctx ends after 10 seconds; Find must then return,
	// with an error.
	Find func(ctx context.Context) ([]string, error)
	// Every is the pause after each answer, of which up to a tenth is added or taken away at random.
	// Zero means 5 seconds.
	Every time.Duration
	// Name is how the log calls the source.
	Name string
}

// String returns the name.
func (p *Poll) String() string {
	if p.Name == "" {
		return "poll"
	}
	return p.Name
}

// Watch calls Find until ctx ends or Find fails.
func (p *Poll) Watch(ctx context.Context, found func(hosts []string)) error {
	every := p.Every
	if every <= 0 {
		every = defaultEvery
	}
	for {
		hosts, err := p.find(ctx)
		if err != nil {
			return err
		}
		found(hosts)
		if !sleep(ctx, every) {
			return context.Cause(ctx)
		}
	}
}

func (p *Poll) find(ctx context.Context) ([]string, error) {
	ctx, cancel := context.WithTimeout(ctx, findTimeout)
	defer cancel()
	return p.Find(ctx)
}
