// Package house has files that need each other, and one that needs nobody.
package house

type Door struct {
	room *Room
	mu   struct{ locks key }
}

type key struct{ teeth struct{ long int } }

func (d *Door) open() int { return d.room.floor }

// Four dots, two of them into structs without a name.
func (d *Door) short() int { return d.mu.locks.teeth.long }
