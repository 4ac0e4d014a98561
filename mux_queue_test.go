package grid

import (
	"encoding/binary"
	"math/rand/v2"
	"testing"
)

func TestAPayloadQueueKeepsTheOrder(t *testing.T) {
	random := rand.New(rand.NewPCG(1, 2))
	var q payloadQueue
	var pushed, popped uint32
	for range 20_000 {
		if random.IntN(5) > 0 && q.len() < 100 {
			q.push(binary.BigEndian.AppendUint32(nil, pushed))
			pushed++
		}
		if random.IntN(4) > 0 && q.len() > 0 {
			if got := binary.BigEndian.Uint32(q.pop()); got != popped {
				t.Fatalf("got payload %d, want %d", got, popped)
			}
			popped++
		}
		if q.len() != int(pushed-popped) {
			t.Fatalf("%d payloads, want %d", q.len(), pushed-popped)
		}
	}
	if len(q.ring) > 2*100 {
		t.Errorf("room for %d payloads, of which there were 100", len(q.ring))
	}
	q.drop()
	if q.len() != 0 || q.bytes != 0 || q.ring != nil {
		t.Errorf("%d payloads, %d bytes after drop", q.len(), q.bytes)
	}
	q.push([]byte("again"))
	if string(q.pop()) != "again" {
		t.Error("a dropped queue cannot be used again")
	}
}

// A full queue of which one is taken and to which one is added stays where it is.
func TestAFullQueueIsNotCopiedForEachPayload(t *testing.T) {
	const n = 1 << 10
	var q payloadQueue
	for range n {
		q.push(nil)
	}
	places := make(map[int]int)
	for range 2 * n {
		q.pop()
		q.push([]byte{1})
		for i, b := range [...][]byte{q.ring[0], q.ring[n/2], q.ring[n-1]} {
			if b != nil {
				places[i]++
			}
		}
	}
	// The first half of the rounds fills the ring from its start on: what is in place stays in
	// place.
	if places[0] != 2*n || places[1] != 2*n-n/2 || places[2] != n+1 || len(q.ring) != n {
		t.Errorf("payloads moved: %v, room for %d", places, len(q.ring))
	}
}
