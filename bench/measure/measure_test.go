package measure

import (
	"errors"
	"math"
	"slices"
	"testing"
	"time"
)

func TestMedian(t *testing.T) {
	for _, tt := range []struct {
		name string
		in   []float64
		want float64
	}{
		{"one", []float64{3}, 3},
		{"odd", []float64{9, 1, 5}, 5},
		{"even", []float64{4, 1, 2, 9}, 3},
	} {
		if got := Median(tt.in); got != tt.want {
			t.Errorf("%s: %v, want %v", tt.name, got, tt.want)
		}
	}
	if !math.IsNaN(Median(nil)) {
		t.Error("the median of nothing is a number")
	}
	in := []float64{2, 1}
	Median(in)
	if !slices.Equal(in, []float64{2, 1}) {
		t.Error("Median has sorted its argument")
	}
}

func TestQuantile(t *testing.T) {
	var v []time.Duration
	for i := range 1000 {
		v = append(v, time.Duration(1000-i))
	}
	for _, tt := range []struct {
		q    float64
		want time.Duration
	}{{0.5, 500}, {0.999, 999}, {1, 1000}, {0, 1}} {
		if got := Quantile(v, tt.q); got != tt.want {
			t.Errorf("%v: %v, want %v", tt.q, got, tt.want)
		}
	}
	if Quantile(nil, 0.5) != 0 {
		t.Error("a quantile of nothing is not 0")
	}
}

func TestRatioIsTakenRoundByRound(t *testing.T) {
	// The machine was slow in the second round, for both.
	base := Series{Rounds: [][]float64{{10}, {100}, {10}}}
	s := Series{Rounds: [][]float64{{20}, {200}, {30}}}
	if got := s.Ratio(base, 0); got != 2 {
		t.Errorf("%v, want 2", got)
	}
}

func TestInterleave(t *testing.T) {
	wrong := errors.New("wrong")
	var order []int
	all := Interleave(3, 2, func(i int) ([]float64, error) {
		order = append(order, i)
		if i == 1 {
			return nil, wrong
		}
		return []float64{7}, nil
	})
	if len(all[0].Rounds) != 3 || all[0].Err != nil {
		t.Errorf("the first has %v", all[0])
	}
	if len(all[1].Rounds) != 0 || !errors.Is(all[1].Err, wrong) {
		t.Errorf("the second has %v", all[1])
	}
	if len(order) != 4 {
		t.Errorf("%d runs, want 4: one that has failed is left out", len(order))
	}
}

func TestLoad(t *testing.T) {
	tick := make(chan bool)
	r, err := Load(3, 0, time.Millisecond, func(worker int, m *Meter) error {
		for m.Tick(worker) {
			select {
			case tick <- true:
			case <-tick:
			case <-time.After(time.Millisecond):
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if r.Operations < 3 || r.Elapsed < time.Millisecond || r.Nanoseconds() <= 0 {
		t.Errorf("%+v", r)
	}
}

func TestLoadReturnsAWorkersError(t *testing.T) {
	wrong := errors.New("wrong")
	_, err := Load(2, 0, time.Millisecond, func(worker int, m *Meter) error {
		if worker == 1 {
			return wrong
		}
		for m.Tick(worker) {
			time.Sleep(time.Millisecond)
		}
		return nil
	})
	if !errors.Is(err, wrong) {
		t.Errorf("%v, want the worker's", err)
	}
}
