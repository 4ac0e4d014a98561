// Rate measures how fast bytes go through a netgrid.Conn, beside plain TCP, between two processes on
// loopback: each has a core of its own, and the two kinds take turns.
//
//	go run ./internal/rate -rounds 7
//
// It prints, for each kind, the median rate and CPU time of both ends, and the ratios of the rounds;
// and how long small calls take beside the bulk, and alone: round trips over TCP, requests over the
// grid. It needs Linux, and taskset.
//
// On a machine that does something else too, rates are those of the scheduler. With chrt -f 10 in front
// of the built program they are not; rounds are to be short then.
package main

import (
	"bufio"
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"os"
	"os/exec"
	"runtime/pprof"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/gridmesh/grid"
	"github.com/gridmesh/grid/contrib/netgrid"
	"github.com/zeebo/xxh3"
)

var (
	role     = flag.String("role", "", "for the processes that are started: send or receive")
	rounds   = flag.Int("rounds", 5, "how often each kind is measured")
	size     = flag.Int64("mib", 2048, "what is sent in a round, in MiB")
	small    = flag.Bool("calls", true, "make small calls beside the bulk, in rounds of their own")
	conns    = flag.Int("conns", 1, "connections at once")
	profile  = flag.String("profile", "", "write CPU profiles of a single round with grid to FILE.send and FILE.receive")
	dialer   = flag.String("dialer", "send", "which process dials the connection of the grid, and masks what it sends: send or receive")
	reverse  = flag.Bool("reverse", false, "let the end send that has been dialed")
	apart    = flag.Bool("apart", true, "a core for each process")
	blockKiB = flag.Int("block", 256, "what is written and read at once, in KiB")
	copying  = flag.Bool("copy", false, "io.Copy with ReaderFrom and WriterTo in place of Write and Read")
	local    = flag.String("local", "", "")
	remote   = flag.String("remote", "", "")
)

// order is a line that tells a process what to do.
type order struct {
	Kind  string // tcp or grid
	Bytes int64
	Calls bool
}

// outcome is its answer.
type outcome struct {
	Seconds float64
	CPU     float64 // of the process, in seconds
	Calls   []float64
}

func main() {
	flag.Parse()
	log.SetFlags(0)
	switch *role {
	case "send", "receive":
		child(*role)
	default:
		drive()
	}
}

type process struct {
	in  io.Writer
	out *bufio.Scanner
}

func start(role, core, local, remote string) *process {
	args := append([]string{"-c", core, os.Args[0], "-role", role, "-local", local, "-remote", remote}, os.Args[1:]...)
	if !*apart {
		args[1] = "0,1"
	}
	cmd := exec.Command("taskset", args...)
	cmd.Env = os.Environ()
	if *apart {
		cmd.Env = append(cmd.Env, "GOMAXPROCS=1")
	}
	cmd.Stderr = os.Stderr
	in, err := cmd.StdinPipe()
	if err != nil {
		log.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		log.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		log.Fatal(err)
	}
	p := &process{in, bufio.NewScanner(out)}
	p.out.Buffer(nil, 64<<20)
	return p
}

func (p *process) tell(o order) {
	b, _ := json.Marshal(o)
	fmt.Fprintf(p.in, "%s\n", b)
}

func (p *process) answer() (o outcome) {
	if !p.out.Scan() {
		log.Fatal("a process has ended")
	}
	if err := json.Unmarshal(p.out.Bytes(), &o); err != nil {
		log.Fatal(err)
	}
	return o
}

func port() string {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		log.Fatal(err)
	}
	defer l.Close()
	return l.Addr().String()
}

// addresses returns those of the sender and of the receiver, so that the right one of them dials.
func addresses() (send, receive string) {
	for {
		a, b := port(), port()
		if a == b {
			continue
		}
		x, y := "http://"+a, "http://"+b
		if dials := xxh3.HashString(x+y) < xxh3.HashString(y+x); dials == (*dialer == "send") {
			return a, b
		}
	}
}

func drive() {
	a, b := addresses()
	send, receive := start("send", "0", a, b), start("receive", "1", b, a)
	send.answer()
	receive.answer()
	round := func(o order) (s, r outcome) {
		receive.tell(o)
		send.tell(o)
		return send.answer(), receive.answer()
	}
	n := *rounds
	kinds := []string{"tcp", "grid"}
	if *profile != "" {
		n, kinds = 1, []string{"grid"}
	}
	res := map[string][3][]float64{}
	took, alone := map[string][]float64{}, map[string][]float64{}
	for i := range n + 1 {
		for _, kind := range kinds {
			s, r := round(order{kind, *size << 20, false})
			if i == 0 && *profile == "" {
				continue
			}
			v := res[kind]
			gb := float64(*size<<20) / 1e9
			v[0] = append(v[0], gb/r.Seconds)
			v[1] = append(v[1], s.CPU/gb)
			v[2] = append(v[2], r.CPU/gb)
			res[kind] = v
			if *small && *profile == "" {
				s, _ := round(order{kind, *size << 20, true})
				took[kind] = append(took[kind], s.Calls...)
				s, _ = round(order{kind, 0, true})
				alone[kind] = append(alone[kind], s.Calls...)
			}
		}
	}
	for _, kind := range kinds {
		v := res[kind]
		fmt.Printf("%-5s %.2f GB/s, CPU of a GB: sender %.3f s, receiver %.3f s", kind, median(v[0]), median(v[1]), median(v[2]))
		tellCalls("beside it", took[kind])
		tellCalls("alone", alone[kind])
		fmt.Println()
	}
	if len(kinds) == 2 {
		t, g := res["tcp"], res["grid"]
		for i, what := range []string{"rate", "sender's CPU", "receiver's CPU"} {
			var q []float64
			for k := range t[i] {
				q = append(q, g[i][k]/t[i][k])
			}
			slices.Sort(q)
			fmt.Printf("grid / tcp, %s: %.2f (%.2f to %.2f)\n", what, median(q), q[0], q[len(q)-1])
		}
	}
	fmt.Fprintln(send.in)
	fmt.Fprintln(receive.in)
}

// tellCalls prints how long small calls took, in milliseconds.
func tellCalls(where string, c []float64) {
	if len(c) == 0 {
		return
	}
	slices.Sort(c)
	fmt.Printf("; %d small calls %s: p50 %.3f ms, p99 %.3f ms", len(c), where, c[len(c)/2], c[len(c)*99/100])
}

func median(v []float64) float64 {
	v = slices.Clone(v)
	slices.Sort(v)
	return v[len(v)/2]
}

func cpu() float64 {
	var u syscall.Rusage
	_ = syscall.Getrusage(syscall.RUSAGE_SELF, &u)
	return float64(u.Utime.Nano()+u.Stime.Nano()) / 1e9
}

func child(role string) {
	ctx := context.Background()
	m, err := grid.NewManager(ctx, grid.ManagerOptions{
		Local: "http://" + *local, Hosts: []string{"http://" + *local, "http://" + *remote},
		AuthRequest: func(*http.Request) error { return nil },
	})
	if err != nil {
		log.Fatal(err)
	}
	gl, err := netgrid.Listen(m, "bulk")
	if err != nil {
		log.Fatal(err)
	}
	if err := m.Handle("echo", func(_ context.Context, b []byte) ([]byte, error) { return b, nil }); err != nil {
		log.Fatal(err)
	}
	tl, err := net.Listen("tcp", *local)
	if err != nil {
		log.Fatal(err)
	}
	plain := &split{Listener: tl, bulk: make(chan net.Conn, 16)}
	go func() { log.Fatal(http.Serve(plain, m.Handler())) }()
	conn := m.Connection("http://" + *remote)
	if err := conn.WaitForConnect(ctx); err != nil {
		log.Fatal(err)
	}
	fmt.Println("{}")
	in := bufio.NewScanner(os.Stdin)
	for in.Scan() && in.Text() != "" {
		var o order
		if err := json.Unmarshal(in.Bytes(), &o); err != nil {
			log.Fatal(err)
		}
		if *profile != "" {
			f, err := os.Create(*profile + "." + role)
			if err != nil {
				log.Fatal(err)
			}
			_ = pprof.StartCPUProfile(f)
		}
		dial := func() net.Conn {
			if o.Kind == "tcp" {
				return dialPlain(bulk)
			}
			c, err := netgrid.Dial(ctx, conn, "bulk")
			if err != nil {
				log.Fatal(err)
			}
			return c
		}
		accept := func() net.Conn {
			if o.Kind == "tcp" {
				return <-plain.bulk
			}
			c, err := gl.Accept()
			if err != nil {
				log.Fatal(err)
			}
			return c
		}
		var answer outcome
		switch {
		case o.Bytes == 0 && role == "send":
			answer.Calls = smallCalls(o, after(300*time.Millisecond), conn)
		case o.Bytes == 0:
		case role == "send":
			answer = sender(o, dial, accept, conn)
		default:
			answer = receiver(o, dial, accept)
		}
		if *profile != "" {
			pprof.StopCPUProfile()
		}
		b, _ := json.Marshal(answer)
		fmt.Printf("%s\n", b)
	}
}

// The first byte of a plain connection, which shares the port with the grid's.
const (
	bulk = 'B'
	echo = 'E' // comes back
)

func dialPlain(kind byte) net.Conn {
	c, err := net.Dial("tcp", *remote)
	if err == nil {
		_, err = c.Write([]byte{kind})
	}
	if err != nil {
		log.Fatal(err)
	}
	return c
}

// split is a listener for the grid, without the plain connections.
type split struct {
	net.Listener
	bulk chan net.Conn
}

func (s *split) Accept() (net.Conn, error) {
	for {
		c, err := s.Listener.Accept()
		if err != nil {
			return nil, err
		}
		var b [1]byte
		if _, err := io.ReadFull(c, b[:]); err != nil {
			continue
		}
		switch b[0] {
		case bulk:
			s.bulk <- c
		case echo:
			go func() {
				defer c.Close()
				_, _ = io.Copy(struct{ io.Writer }{c}, c) // not in the kernel
			}()
		default:
			return &begun{c, strings.NewReader(string(b[:]))}, nil
		}
	}
}

// begun is a connection of which something has been read already.
type begun struct {
	net.Conn
	first *strings.Reader
}

func (c *begun) Read(p []byte) (int, error) {
	if c.first.Len() > 0 {
		return c.first.Read(p)
	}
	return c.Conn.Read(p)
}

// sender sends in blocks.
func sender(o order, dial, accept func() net.Conn, conn *grid.Connection) (out outcome) {
	before, began := cpu(), time.Now()
	done := make(chan struct{})
	go func() {
		defer close(done)
		var wg sync.WaitGroup
		for range *conns {
			wg.Go(func() {
				var c net.Conn
				if *reverse {
					c = accept()
				} else {
					c = dial()
				}
				defer c.Close()
				n := o.Bytes / int64(*conns)
				if *copying {
					if _, err := io.Copy(c, io.LimitReader(zeros{}, n)); err != nil {
						log.Fatal(err)
					}
				} else {
					b := make([]byte, *blockKiB<<10)
					for ; n > 0; n -= int64(len(b)) {
						if _, err := c.Write(b); err != nil {
							log.Fatal(err)
						}
					}
				}
				c.(interface{ CloseWrite() error }).CloseWrite()
				_, _ = io.Copy(io.Discard, c)
			})
		}
		wg.Wait()
	}()
	if o.Calls {
		out.Calls = smallCalls(o, done, conn)
	}
	<-done
	return outcome{time.Since(began).Seconds(), cpu() - before, out.Calls}
}

type zeros struct{}

func (zeros) Read(p []byte) (int, error) { return len(p), nil }

// after returns a channel that is closed after d.
func after(d time.Duration) chan struct{} {
	done := make(chan struct{})
	time.AfterFunc(d, func() { close(done) })
	return done
}

// smallCalls makes a call each millisecond until done is closed, and returns how long each took, in
// milliseconds.
func smallCalls(o order, done chan struct{}, conn *grid.Connection) (took []float64) {
	b := make([]byte, 512)
	call := func() error {
		resp, err := conn.Call(context.Background(), "echo", b)
		grid.PutByteBuffer(resp)
		return err
	}
	if o.Kind == "tcp" {
		c := dialPlain(echo)
		defer c.Close()
		call = func() error {
			if _, err := c.Write(b); err != nil {
				return err
			}
			_, err := io.ReadFull(c, b)
			return err
		}
	}
	ticker := time.NewTicker(time.Millisecond)
	defer ticker.Stop()
	for {
		select {
		case <-done:
			return took
		case <-ticker.C:
			began := time.Now()
			if err := call(); err != nil {
				log.Fatal(err)
			}
			took = append(took, time.Since(began).Seconds()*1000)
		}
	}
}

// receiver reads in blocks, from when the first byte comes.
func receiver(o order, dial, accept func() net.Conn) (out outcome) {
	before := cpu()
	var mu sync.Mutex
	var first time.Time
	var wg sync.WaitGroup
	for range *conns {
		wg.Go(func() {
			var c net.Conn
			if *reverse {
				c = dial()
			} else {
				c = accept()
			}
			defer c.Close()
			b := make([]byte, *blockKiB<<10)
			if !*copying {
				var n int64
				for {
					k, err := c.Read(b)
					if n == 0 {
						mu.Lock()
						if first.IsZero() {
							first = time.Now()
						}
						mu.Unlock()
					}
					n += int64(k)
					if err == io.EOF {
						break
					}
					if err != nil {
						log.Fatal(err)
					}
				}
				return
			}
			mu.Lock()
			if first.IsZero() {
				first = time.Now()
			}
			mu.Unlock()
			if _, err := io.Copy(nothing{}, c); err != nil {
				log.Fatal(err)
			}
		})
	}
	wg.Wait()
	return outcome{Seconds: time.Since(first).Seconds(), CPU: cpu() - before}
}

type nothing struct{}

func (nothing) Write(p []byte) (int, error) { return len(p), nil }
