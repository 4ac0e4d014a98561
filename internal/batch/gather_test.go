package batch

import (
	"testing"
	"time"
)

func TestASlowYieldIsNotRepeatedSoon(t *testing.T) {
	now := time.Now()
	for _, test := range []struct {
		took, rest time.Duration
	}{
		{0, 0},
		{5 * time.Millisecond, 0}, // a thousand callers
		{20 * time.Millisecond, 0},
		{30 * time.Millisecond, 600 * time.Millisecond},
		{400 * time.Millisecond, 8 * time.Second},
		{3 * time.Second, 10 * time.Second},
	} {
		var p restraint
		if more := p.spent(test.took, now); more != (test.rest == 0) {
			t.Errorf("after a yield of %v another one: %v", test.took, more)
		}
		if rest := p.until.Sub(now); test.rest == 0 && !p.until.IsZero() || test.rest > 0 && rest != test.rest {
			t.Errorf("after a yield of %v none for %v, want %v", test.took, rest, test.rest)
		}
	}
}

func TestWhatCannotWaitIsNotGathered(t *testing.T) {
	w := New(nil, Config{Limit: 1 << 20, Reserve: 1 << 20, Large: 1 << 20})
	hurries := func() bool {
		_, hurry, _ := w.gathered()
		return hurry
	}
	put := func(hurry bool) {
		slot := must(w.BeginNow(Normal))
		if hurry {
			slot.Hurry()
		}
		slot.Commit(append(slot.Open(1), 0))
	}
	put(false)
	if hurries() {
		t.Error("a message like others cannot wait")
	}
	put(true)
	if !hurries() {
		t.Error("a message that is in a hurry waits")
	}
	w.take(Normal)
	if hurries() {
		t.Error("an empty queue is in a hurry")
	}
	w.Control([]byte{1})
	if !hurries() {
		t.Error("a control frame waits")
	}
}
