package grid

import "testing"

// What comes while a session ends would stay in a table that nobody looks at any more.
func TestTablesOfAnEndedSessionTakeNothing(t *testing.T) {
	var streams muxTable[int]
	if !streams.put(1, 10) || streams.put(1, 11) {
		t.Error("a number was not taken once")
	}
	if left := streams.close(); len(left) != 1 || left[0] != 10 {
		t.Errorf("%v were left, want 10", left)
	}
	if streams.put(2, 20) {
		t.Error("a closed table took a stream")
	}
	if n := streams.len(); n != 1 {
		t.Errorf("%d streams are in the table, want the one that has to be removed", n)
	}

	var calls callTable
	open := make(map[uint64]*call)
	for i := range uint64(2 * callSlots) { // half of them in slots, or a few more
		id := 2*i + 1
		open[id] = &call{answered: make(chan struct{}, 1)}
		if !calls.put(id, open[id]) {
			t.Fatalf("call %d was not taken", id)
		}
	}
	if n := calls.crowded.Load(); n != callSlots-fewSlots {
		t.Errorf("%d calls are in shards, want %d", n, callSlots-fewSlots)
	}
	calls.close(ErrDisconnected)
	for id, c := range open {
		if len(c.answered) != 1 {
			t.Fatalf("call %d is open", id)
		}
		<-c.answered
		if c.err != ErrDisconnected {
			t.Errorf("call %d got %v", id, c.err)
		}
		if calls.put(4*callSlots+id, c) || calls.putCrowded(4*callSlots+id, c) {
			t.Errorf("a closed table took call %d", 4*callSlots+id)
		}
	}
	if n := calls.len(); n != 0 {
		t.Errorf("%d calls are in the table", n)
	}
	var unused callTable
	unused.close(ErrDisconnected)
	if c := newTableCall(testSingle, 0); unused.put(1, c) || unused.putCrowded(1, c) {
		t.Error("a closed table took its first call")
	}
}
