package pair

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"strings"
	"sync"
	"time"

	"github.com/gridmesh/grid/bench/link"
	"github.com/gridmesh/grid/bench/load"
)

// order is what this process has another one do. One of its fields is set.
type order struct {
	Listen *listenOrder `json:",omitempty"`
	Start  *startOrder  `json:",omitempty"`
	Run    *load.Spec   `json:",omitempty"`
	PIDs   [2]int       // of both processes, with Run
	Count  bool         `json:",omitempty"` // connections accepted so far
}

type listenOrder struct {
	Host  string
	Nodes int
}

type startOrder struct {
	Contender string
	Window    int
	First     int // the number of the first node
	Addrs     []string
	Via       map[string]string
}

// answer is to an order. One with Began is not the last.
type answer struct {
	Err      string `json:",omitempty"`
	Addrs    []string
	Began    bool
	Accepted int
	Result   *load.Result
}

// process is one that this one has started.
type process struct {
	cmd   *exec.Cmd
	pipe  net.Conn
	in    *json.Encoder
	out   *json.Decoder
	said  *tail
	ended chan struct{}
	once  sync.Mutex // held during an order
}

// start starts a process of a side.
func start(c Config, l link.Link, side int) (*process, error) {
	program, err := c.program()
	if err != nil {
		return nil, err
	}
	pipe, theirs, err := pipes()
	if err != nil {
		return nil, err
	}
	defer theirs.Close()
	p := &process{
		cmd: exec.Command(program, nodeFlag), pipe: pipe, in: json.NewEncoder(pipe), out: json.NewDecoder(pipe),
		said: new(tail), ended: make(chan struct{}),
	}
	p.cmd.Env = append(os.Environ(), nodeVariable+"=1")
	if c.Procs > 0 && c.Place == Anywhere {
		p.cmd.Env = append(p.cmd.Env, fmt.Sprintf("GOMAXPROCS=%d", c.Procs))
	}
	p.cmd.ExtraFiles = []*os.File{theirs}
	p.cmd.Stdout, p.cmd.Stderr = p.said, p.said
	err = l.Run(side, func() error { return onProcessor(c.Place, side, p.cmd.Start) })
	if err != nil {
		pipe.Close()
		return nil, err
	}
	go func() {
		defer close(p.ended)
		p.cmd.Wait() //nolint:errcheck // it was told to end, or killed
	}()
	return p, nil
}

func (p *process) pid() int { return p.cmd.Process.Pid }

// do has an order carried out.
func (p *process) do(o order) (answer, error) { return p.run(o, func() {}) }

// run is do for an order that takes its time. It calls began, on another goroutine, when it is
// told that what counts has begun, and waits for it.
func (p *process) run(o order, began func()) (answer, error) {
	p.once.Lock()
	defer p.once.Unlock()
	p.pipe.SetDeadline(time.Now().Add(patience))
	if err := p.in.Encode(o); err != nil {
		return answer{}, err
	}
	var told sync.WaitGroup
	defer told.Wait()
	for {
		var a answer
		if err := p.out.Decode(&a); err != nil {
			return answer{}, fmt.Errorf("the process is gone or stuck: %w", err)
		}
		switch {
		case a.Err != "":
			return answer{}, errors.New(a.Err)
		case !a.Began:
			told.Wait()
			return a, nil
		}
		told.Go(began)
	}
}

// end ends the process and returns what it has written.
func (p *process) end() string {
	p.pipe.Close() // tells it to end
	select {
	case <-p.ended:
	case <-time.After(5 * time.Second):
		p.cmd.Process.Kill() //nolint:errcheck // it has ended by itself then
		<-p.ended
	}
	return p.said.String()
}

// tail keeps the end of what is written to it.
type tail struct {
	mu   sync.Mutex // Protects following.
	last []byte
}

const tailSize = 2000

func (t *tail) Write(b []byte) (int, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.last = append(t.last, b...)
	if n := len(t.last) - tailSize; n > 0 {
		t.last = bytes.Clone(t.last[n:])
	}
	return len(b), nil
}

func (t *tail) String() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	return strings.TrimSpace(string(t.last))
}
