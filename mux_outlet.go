package grid

import (
	"errors"
	"slices"
	"sync"
)

// outlet is where the messages of a stream go out: one at a time, in the order in which their senders
// came. Each waits for its turn and for credit, and sends by itself.
type outlet struct {
	outbox                 // of whose turn it is
	owner    endSender     // whose outlet it is
	credited chan struct{} // tells whose turn it is to look again; room for one signal

	mu      sync.Mutex  // Protects following.
	credits int         // what may be sent, in messages or bytes; in bytes, a message may exceed it
	busy    bool        // it is somebody's turn
	line    []chan bool // of those who wait for theirs; false says that it never comes
	closed  bool        // nobody gets a turn anymore
	over    bool        // because the stream has ended, not only its messages
	endSent bool        // the end of the messages is on its way, or never will be
}

// endSender sends the end of the messages of a stream, without waiting.
type endSender interface{ sendEnd() }

var (
	errSendClosed = errors.New("the messages of the stream have ended")
	errSendOver   = errors.New("the stream has ended")
)

// enter waits for the turn and for credit, of which it takes the cost. After a nil error leave must be
// called. It fails with errSendClosed after close; and with errSendOver after shut, and once one of
// the channels is closed, or with errCanceled for giveUp.
func (o *outlet) enter(cost int, over, also, giveUp <-chan struct{}) error {
	o.mu.Lock()
	if !o.busy && !o.closed && o.credits > 0 {
		o.busy = true
		o.credits -= cost
		o.mu.Unlock()
		return nil
	}
	o.mu.Unlock()
	if err := o.takeTurn(over, also, giveUp); err != nil {
		return err
	}
	err := o.spend(cost, over, also, giveUp)
	if err != nil {
		o.leave()
	}
	return err
}

// takeTurn waits for the turn.
func (o *outlet) takeTurn(over, also, giveUp <-chan struct{}) error {
	o.mu.Lock()
	err, mine := o.closedErr(), chan bool(nil)
	if err == nil {
		mine = o.join()
	}
	o.mu.Unlock()
	if mine == nil {
		return err
	}
	select {
	case turn := <-mine:
		if turn {
			return nil
		}
		o.mu.Lock()
		defer o.mu.Unlock()
		return o.closedErr()
	case <-over:
		err = errSendOver
	case <-also:
		err = errSendOver
	case <-giveUp:
		err = errCanceled
	}
	if !o.quit(mine) && <-mine {
		o.leave()
	}
	return err
}

// closedErr returns why nobody gets a turn anymore; nil if that is not so. o.mu is held.
func (o *outlet) closedErr() error {
	switch {
	case o.over:
		return errSendOver
	case o.closed:
		return errSendClosed
	}
	return nil
}

// join returns where to wait for the turn; nil if it has come. o.mu is held.
func (o *outlet) join() (mine chan bool) {
	if !o.busy {
		o.busy = true
		return nil
	}
	mine = make(chan bool, 1)
	o.line = append(o.line, mine)
	return mine
}

// quit leaves the line. It returns false if the turn, or the word that it never comes, is on its way.
func (o *outlet) quit(mine chan bool) bool {
	o.mu.Lock()
	defer o.mu.Unlock()
	i := slices.Index(o.line, mine)
	if i >= 0 {
		o.line = slices.Delete(o.line, i, i+1)
	}
	return i >= 0
}

// spend waits for credit, during the turn.
func (o *outlet) spend(cost int, over, also, giveUp <-chan struct{}) error {
	for {
		o.mu.Lock()
		err, enough := o.closedErr(), o.credits > 0
		if err == nil && enough {
			o.credits -= cost
		}
		o.mu.Unlock()
		if err != nil || enough {
			return err
		}
		select {
		case <-o.credited:
		case <-over:
			return errSendOver
		case <-also:
			return errSendOver
		case <-giveUp:
			return errCanceled
		}
	}
}

// refund gives back credit for what was not sent.
func (o *outlet) refund(cost int) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.credits += cost // it is still the turn of who has spent it
}

// leave ends the turn.
func (o *outlet) leave() {
	o.mu.Lock()
	end := o.closed && !o.endSent
	if end {
		o.endSent = true
		o.mu.Unlock()
		o.owner.sendEnd()
		o.mu.Lock()
	}
	defer o.mu.Unlock()
	if len(o.line) == 0 {
		o.busy = false
		return
	}
	o.line[0] <- true // has room
	if o.line = o.line[1:]; len(o.line) == 0 {
		o.line = nil
	}
}

// close ends the messages of the stream: behind what those send whose turn it is, the owner sends the
// end. It does not wait.
func (o *outlet) close() {
	o.mu.Lock()
	if o.closed {
		o.mu.Unlock()
		return
	}
	o.closed = true
	o.turnAway()
	free := !o.busy
	o.busy = true
	o.mu.Unlock()
	if free {
		o.leave()
	}
}

// shut ends the messages of a stream that has ended, without a word to the other side.
func (o *outlet) shut() {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.over {
		return
	}
	o.closed, o.over, o.endSent = true, true, true
	o.turnAway()
}

// turnAway tells all who wait for a turn or for credit that they wait in vain. o.mu is held.
func (o *outlet) turnAway() {
	for _, one := range o.line {
		one <- false // has room
	}
	o.line = nil
	if o.credited != nil {
		signal(o.credited)
	}
}

// addCredit lets more be sent: n messages, or bytes, and in sum most. What the peer grants beyond that
// is cut.
func (o *outlet) addCredit(n, most int) {
	o.mu.Lock()
	o.credits = int(min(int64(o.credits)+int64(n), int64(most))) // the sum may not fit an int of 32 bits
	o.mu.Unlock()
	signal(o.credited)
}

// last waits for the last turn of all: nobody else gets one anymore. If the end of the stream costs
// credit, it waits for that too. It returns false if the stream ends, or over is closed, before that.
func (o *outlet) last(costs bool, over <-chan struct{}) bool {
	o.mu.Lock()
	if o.over {
		o.mu.Unlock()
		return false
	}
	if !o.closed {
		o.closed, o.endSent = true, true
		o.turnAway()
	}
	mine := o.join()
	o.mu.Unlock()
	if mine != nil {
		select {
		case turn := <-mine:
			if !turn {
				return false
			}
		case <-over:
			return false
		}
	}
	for costs && !o.funded() {
		select {
		case <-o.credited:
		case <-over:
			return false
		}
	}
	return true
}

// funded reports whether there is credit.
func (o *outlet) funded() bool {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.credits > 0
}
