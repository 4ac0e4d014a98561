package batch

import (
	"math/rand/v2"
	"testing"
	"time"
)

// testLine is a network, and the reader behind it.
type testLine struct {
	rate  float64       // bytes a second; 0 for as many as are sent
	delay time.Duration // there and back, besides what waits
	turn  time.Duration // the reader runs once in this time; 0 for always
	size  int           // messages follow each other when they are answered; 0 for one without end
}

// run sends as much as the window allows for a time. It returns the rate of the last half, and the
// mean time that a byte then waits in the line.
func (l testLine) run(f *window, start time.Time, total time.Duration) (rate float64, wait time.Duration) {
	type piece struct {
		n  int
		at time.Duration // when it is acknowledged
	}
	var way []piece
	var free time.Duration // when the line has sent everything
	now, half := time.Duration(0), int64(0)
	var waits, pieces time.Duration
	left := l.size
	for now < total {
		for (l.size == 0 || left > 0) && f.open() {
			n := f.piece()
			if l.size > 0 {
				n = min(n, left)
				left -= n
			}
			f.send(n, start.Add(now))
			begin := max(free, now)
			if l.rate > 0 {
				free = begin + time.Duration(float64(n)/l.rate*1e9)
			} else {
				free = begin + time.Microsecond
			}
			at := free + l.delay
			if l.turn > 0 {
				at = at.Truncate(l.turn) + l.turn
			}
			way = append(way, piece{n, at})
			if now > total/2 {
				waits += begin - now
				pieces++
			}
		}
		one := way[0]
		way = way[1:]
		now = max(now, one.at)
		f.acknowledge(one.n, l.size == 0 || left > 0, start.Add(now))
		if len(way) == 0 {
			left = l.size
		}
		if now > total/2 {
			half += int64(one.n)
		}
	}
	f.inFlight = 0 // what is on its way arrives
	return float64(half) / (total / 2).Seconds(), waits / max(pieces, 1)
}

func TestTheWindowFindsTheRateOfTheLine(t *testing.T) {
	for name, c := range map[string]struct {
		line testLine
		wait time.Duration // at most
	}{
		"100 Mbit/s near":        {testLine{rate: 12.5e6, delay: 200 * time.Microsecond}, 11 * time.Millisecond},
		"1 Gbit/s near":          {testLine{rate: 125e6, delay: 200 * time.Microsecond}, 3 * time.Millisecond},
		"100 Mbit/s, 100 ms":     {testLine{rate: 12.5e6, delay: 100 * time.Millisecond}, 150 * time.Millisecond},
		"1 Gbit/s, 20 ms":        {testLine{rate: 125e6, delay: 20 * time.Millisecond}, 40 * time.Millisecond},
		"10 Gbit/s, 100 us":      {testLine{rate: 1250e6, delay: 100 * time.Microsecond}, time.Millisecond},
		"a busy process at 1 Gb": {testLine{rate: 125e6, delay: 100 * time.Microsecond, turn: 10 * time.Millisecond}, 40 * time.Millisecond},
	} {
		t.Run(name, func(t *testing.T) {
			var f window
			rate, wait := c.line.run(&f, time.Now(), 25*time.Second)
			t.Logf("%.2f of the rate, %v in the line, window %d", rate/c.line.rate, wait, f.limit())
			if rate < 0.9*c.line.rate {
				t.Errorf("%.2f of the rate", rate/c.line.rate)
			}
			if wait > c.wait {
				t.Errorf("a byte waits for %v in the line, more than %v", wait, c.wait)
			}
		})
	}
}

// Between processes of one machine, rates are what the scheduler makes of them. The window must not
// become so small that both ends have to wait for each other.
func TestTheWindowStaysLargeOnAFastLine(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	var f window
	now := time.Now()
	for range 50 {
		line := testLine{rate: 1e9 + r.Float64()*2e9, delay: 100 * time.Microsecond, turn: time.Duration(r.IntN(500)) * time.Microsecond}
		line.run(&f, now, time.Second)
		now = now.Add(time.Second)
		if f.limit() < 256<<10 {
			t.Fatalf("%d bytes at %.1f GB/s", f.limit(), line.rate/1e9)
		}
	}
}

// A message that is at most half the window is one piece.
func TestOnePieceForHalfAWindow(t *testing.T) {
	for size, want := range map[int]int{minWindow: 32 << 10, 256 << 10: 128 << 10, 1 << 20: maxPiece, maxWindow: maxPiece} {
		f := window{size: size}
		if got := f.most(); got != want {
			t.Errorf("up to %d bytes with a window of %d, want %d", got, size, want)
		}
	}
}

func TestTheWindowIsLargeEnoughForMessages(t *testing.T) {
	for name, line := range map[string]testLine{
		"100 Mbit/s, 100 ms":      {rate: 12.5e6, delay: 100 * time.Millisecond, size: 1 << 20},
		"1 Gbit/s, 100 ms":        {rate: 125e6, delay: 100 * time.Millisecond, size: 1 << 20},
		"1 Gbit/s, 20 ms":         {rate: 125e6, delay: 20 * time.Millisecond, size: 1 << 20},
		"1 Gbit/s, 20 ms, 16 MiB": {rate: 125e6, delay: 20 * time.Millisecond, size: 16 << 20},
	} {
		t.Run(name, func(t *testing.T) {
			var f window
			rate, _ := line.run(&f, time.Now(), 50*time.Second)
			best := float64(line.size) / (line.delay + time.Duration(float64(line.size)/line.rate*1e9)).Seconds()
			t.Logf("%.2f of what is possible, window %d", rate/best, f.limit())
			if rate < 0.8*best {
				t.Errorf("%.2f of what is possible, with a window of %d", rate/best, f.limit())
			}
		})
	}
}

func TestTheWindowFollowsTheLine(t *testing.T) {
	var f window
	fast := testLine{rate: 125e6, delay: 20 * time.Millisecond}
	slow := testLine{rate: 12.5e6, delay: time.Millisecond}
	start := time.Now()
	fast.run(&f, start, 25*time.Second)
	large := f.limit()
	slow.run(&f, start.Add(time.Minute), 80*time.Second)
	small := f.limit()
	if small > 128<<10 {
		t.Errorf("from %d the window only fell to %d", large, small)
	}
	if rate, _ := fast.run(&f, start.Add(3*time.Minute), 60*time.Second); rate < 0.8*fast.rate { // the shortest round trip is still that of the slow line
		t.Errorf("then it rose to %d, for %.2f of the rate", f.limit(), rate/fast.rate)
	}
}
