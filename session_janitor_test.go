package grid

import (
	"context"
	"runtime"
	"slices"
	"testing"
	"testing/synctest"
	"time"
)

// rounds records when a janitor has its rounds, each of which takes as long as it is told.
type rounds struct {
	janitor
	start time.Time
	began []time.Duration
	take  time.Duration
	last  int // the number of the round that ends them
}

func (r *rounds) begin(tick time.Duration) {
	r.start = time.Now()
	r.janitor.begin(tick, func() bool {
		r.began = append(r.began, time.Since(r.start))
		time.Sleep(r.take)
		return len(r.began) != r.last
	})
}

func seconds(of []time.Duration) (all []time.Duration) {
	for _, n := range of {
		all = append(all, time.Duration(n.Nanoseconds())*time.Second)
	}
	return all
}

func TestRoundsFollowEachOther(t *testing.T) {
	for _, test := range []struct {
		name string
		take time.Duration
		last int
		want []time.Duration // in seconds
	}{
		{"short ones", 0, 0, []time.Duration{1, 2, 3, 4, 5, 6}},
		{"long ones", 900 * time.Millisecond, 0, []time.Duration{1, 2, 3, 4, 5, 6}},
		{"too long ones", 2 * time.Second, 0, []time.Duration{1, 3, 5}},
		{"three", 0, 3, []time.Duration{1, 2, 3}},
	} {
		t.Run(test.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				r := rounds{take: test.take, last: test.last}
				r.begin(time.Second)
				time.Sleep(6*time.Second + time.Millisecond)
				r.end()
				time.Sleep(time.Minute)
				if want := seconds(test.want); !slices.Equal(r.began, want) {
					t.Errorf("rounds at %v, want %v", r.began, want)
				}
			})
		})
	}
}

func TestTheEndOfAJanitorWaitsForItsRound(t *testing.T) {
	for _, test := range []struct {
		after, want time.Duration
		rounds      int
	}{
		{0, 0, 0},
		{999 * time.Millisecond, 999 * time.Millisecond, 0},
		{1001 * time.Millisecond, 1500 * time.Millisecond, 1}, // the round takes half a second
		{1600 * time.Millisecond, 1600 * time.Millisecond, 1},
		{2400 * time.Millisecond, 2500 * time.Millisecond, 2},
	} {
		t.Run(test.after.String(), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				r := rounds{take: 500 * time.Millisecond}
				r.begin(time.Second)
				time.Sleep(test.after)
				r.end()
				if took := time.Since(r.start); took != test.want {
					t.Errorf("ended after %v, want %v", took, test.want)
				}
				time.Sleep(time.Minute)
				if len(r.began) != test.rounds {
					t.Errorf("rounds at %v, want %d", r.began, test.rounds)
				}
			})
		})
	}
}

// A round may end its goroutine, by a method of a context of the application.
func TestAJanitorEndsWhoseRoundDoesNotReturn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var j janitor
		j.begin(time.Second, func() bool {
			runtime.Goexit()
			return true
		})
		time.Sleep(10 * time.Second)
		j.end()
	})
}

// Each session has its rounds, from its begin to its end.
func TestEachSessionHasItsRounds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := startPipes(t, 2, nil)
		conn := c.conn(0, 1)
		var past []*session
		for range 3 {
			if err := conn.WaitForConnect(context.Background()); err != nil {
				t.Fatal(err)
			}
			s := conn.current.Load()
			before := s.callClient.ticks.Load()
			time.Sleep(100 * s.tick)
			if n := s.callClient.ticks.Load() - before; n < 99 || n > 101 {
				t.Errorf("%d rounds in the time of 100", n)
			}
			c.cut()
			<-s.finished
			past = append(past, s)
			for i, s := range past {
				before := s.callClient.ticks.Load()
				time.Sleep(10 * s.tick)
				if n := s.callClient.ticks.Load() - before; n != 0 {
					t.Errorf("%d rounds of session %d after its end", n, i)
				}
			}
		}
	})
}
