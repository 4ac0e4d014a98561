package workload

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/gridmesh/grid"
)

// How late something may be in virtual time, where nothing takes any unless it waits.
const (
	defaultDeadline = time.Minute + 8*time.Second // promised to within a few seconds
	prompt          = 15 * time.Second            // a request on a healthy connection, with all that is in front of it
	canceled        = 3 * time.Second             // until a handler on a healthy connection knows
	// Notices is how long it takes to give up a connection that went silent.
	Notices = 30 * time.Second
)

// Outcome is what an error says of a call.
type Outcome int

const (
	OK Outcome = iota
	OfDeadline
	OfCancel
	OfConsumer // that left
	OfLoss
	OfShutdown
	OfRemoval
	OfUnknownHandler
	OfSize
	OfSequence // or of credit
	OfHandler
	OfOthers
)

var outcomeNames = [...]string{
	"success", "deadline exceeded", "the caller has canceled", "the consumer has left", "disconnected", "shutting down", "removed", "unknown handler",
	"too large", "wrong sequence", "the handler fails", "others",
}

func (o Outcome) String() string { return outcomeNames[o] }

// Classify says what an error is.
func Classify(err error) Outcome {
	switch {
	case err == nil:
		return OK
	case errors.Is(err, grid.ErrUnknownHandler):
		return OfUnknownHandler
	case errors.Is(err, grid.ErrMessageTooLarge):
		return OfSize
	case errors.Is(err, errLeft):
		return OfConsumer
	case errors.Is(err, errCanceled):
		return OfCancel
	case err == context.DeadlineExceeded:
		return OfDeadline
	case errors.Is(err, grid.ErrShutdown):
		return OfShutdown
	case errors.Is(err, grid.ErrRemoved):
		return OfRemoval
	case errors.Is(err, grid.ErrDisconnected):
		return OfLoss
	case errors.Is(err, grid.ErrIncorrectSequence), strings.Contains(err.Error(), "more stream messages than granted"):
		return OfSequence
	case grid.IsRemoteErr(err) != nil:
		return OfHandler
	}
	return OfOthers
}

// Reason says in a few words why the call failed; empty for a success.
func (r *Record) Reason() string {
	n := r.Snapshot()
	switch o := Classify(n.Err); {
	case o == OK:
		return ""
	case o == OfHandler && n.Cut:
		return "the handler was canceled"
	case o == OfHandler:
		return "the handler " + endingNames[r.Work.End]
	default:
		return o.String()
	}
}

// Check checks the promises for a call, at the end of it or of all.
func (w *Workload) Check(r *Record) {
	r.mu.Lock()
	defer r.mu.Unlock()
	n := &r.Notes
	if n.Runs > 1 {
		r.violate("the handler ran %d times", n.Runs)
	}
	if n.Outcomes == 0 && n.Runs > 0 {
		r.violate("was handled and has no outcome")
	}
	if n.Outcomes > 1 {
		r.violate("has %d outcomes", n.Outcomes)
	}
	if n.Got > n.Answering || n.Received > n.Offered {
		r.violate("%d of %d answers and %d of %d requests arrived", n.Got, n.Answering, n.Received, n.Offered)
	}
	if n.Outcomes > 0 {
		r.checkCaller()
		if !n.Running {
			r.checkHandler()
		}
		if problem := n.judge(r.Call, w.config.Surroundings); problem != "" {
			r.violate("ended after %v with %v: %s: %+v", n.Ended-n.Began, n.Err, problem, *r.Call)
		}
	}
	r.checked = true
	if w.ran != nil && !n.Running {
		w.records.Delete(r.ID)
	}
}

// checkCaller checks that the caller did not wait for too long. r.mu is held.
func (r *Record) checkCaller() {
	n, allowance := &r.Notes, r.w.config.Allowance
	took := n.Ended - n.Began
	if n.Until > 0 && n.Ended > n.Until+allowance {
		r.violate("ended %v after its context: %v", n.Ended-n.Until, n.Err)
	}
	if r.Kind.Stream() {
		return
	}
	if !r.Waits && took > defaultDeadline+allowance {
		r.violate("a request took %v: %v", took, n.Err)
	}
	slowed := r.w.config.Slowed(r.From, r.To)
	if r.Work.Pause == 0 && r.Work.End != EndWithCall && took > prompt+slowed+allowance && !r.w.config.MayLose(r.From, r.To, n.Began, n.Ended) {
		r.violate("took %v on a healthy connection: %v", took, n.Err)
	}
}

// checkHandler checks that the handler, and who sent to it, did not wait for too long. It has
// ended. r.mu is held.
func (r *Record) checkHandler() {
	n, s := &r.Notes, r.w.config.Surroundings
	if n.Runs == 0 || r.orphan {
		return
	}
	notices := canceled + r.w.config.Allowance + s.Slowed(r.From, r.To)
	lost := notices + Notices
	if limit := notices; r.hears() && n.HandlerEnded > n.Ended+limit {
		if s.MayLose(r.From, r.To, n.Began, n.HandlerEnded) {
			limit = lost
		}
		if n.HandlerEnded > n.Ended+limit {
			r.violate("the handler ended %v after the call: %v", n.HandlerEnded-n.Ended, n.Err)
		}
	}
	// What tells Send may be on its way when the connection is lost: then it is told of the loss.
	if limit := notices; !r.Use.ByChannel && n.Fed > n.HandlerEnded+limit {
		if s.MayLose(r.From, r.To, n.Began, n.HandlerEnded+canceled) {
			limit = lost
		}
		if n.Fed > n.HandlerEnded+limit {
			r.violate("Send waited for %v after the handler had returned", n.Fed-n.HandlerEnded)
		}
	}
}

// judge says what is wrong with the outcome; empty for nothing.
func (n *Notes) judge(c *Call, s Surroundings) string {
	switch Classify(n.Err) {
	case OK:
		return n.judgeSuccess(c)
	case OfUnknownHandler:
		if c.Kind != Unknown && c.Kind != UnknownStream {
			return "the handler is there"
		}
	case OfSize:
		if c.Kind != TooLarge {
			return "it was not"
		}
	case OfConsumer:
		if !c.Kind.Stream() || c.Use.Leave == Stay {
			return "nobody left"
		}
	case OfCancel:
		if !c.Races && (c.Cancel == 0 || n.Ended < n.Began+c.Cancel) {
			return "nobody canceled it"
		}
	case OfDeadline:
		return n.judgeDeadline(c)
	case OfShutdown:
		if !s.Stopped(c.From, c.To, n.Began, n.Ended) {
			return "nobody shuts down"
		}
	case OfRemoval:
		switch {
		case !s.Removed(c.From, c.To, n.Began, n.Ended):
			return "neither node has removed the other"
		case n.Runs > 0:
			return "the handler ran"
		}
	case OfLoss:
		return n.judgeLoss(c, s)
	case OfHandler:
		return n.judgeRemote(c, s)
	case OfSequence:
		if !s.Tampered(c.From, c.To) {
			return "nobody has tampered with the messages"
		}
	default:
		return "nothing is known of such an error"
	}
	return ""
}

func (n *Notes) judgeSuccess(c *Call) string {
	switch {
	case c.Kind == Unknown || c.Kind == UnknownStream || c.Kind == TooLarge:
		return "it could not succeed"
	case n.Runs != 1:
		return fmt.Sprintf("the handler ran %d times", n.Runs)
	case n.Cut:
		return "the handler was cut short"
	case !n.Returned || n.HandlerErr != nil:
		return fmt.Sprintf("the handler has returned: %v, with %v", n.Returned, n.HandlerErr)
	case n.Got != n.Answered:
		return fmt.Sprintf("%d of %d messages arrived", n.Got, n.Answered)
	}
	return ""
}

func (n *Notes) judgeDeadline(c *Call) string {
	switch {
	case c.Deadline > 0 && n.Ended >= n.Began+c.Deadline:
		return ""
	case n.Ended-n.Began >= time.Minute && (!c.Kind.Stream() || c.Waits):
		return "" // of the default deadline, or that of waiting for a connection
	}
	return "too early"
}

// judgeLoss judges ErrDisconnected.
func (n *Notes) judgeLoss(c *Call, s Surroundings) string {
	if n.Until > 0 && n.Ended >= n.Until && c.Kind.Stream() {
		return "" // the handler's side has ended it at the same moment
	}
	if !s.MayLose(c.From, c.To, n.Began, n.Ended) {
		return "nothing had happened to the connection"
	}
	return s.Loss(c, n)
}

// judgeRemote judges an error of the callee.
func (n *Notes) judgeRemote(c *Call, s Surroundings) string {
	err := string(*grid.IsRemoteErr(n.Err))
	tampered := c.Kind.Stream() && s.Tampered(c.From, c.To) // found by the callee
	switch {
	case !n.Returned || n.HandlerErr == nil:
		if !tampered {
			return "the handler has not failed"
		}
	case c.Work.End == EndPanicking && n.Got == n.Answered && strings.HasSuffix(err, "panicked: "+string(*n.HandlerErr)):
	case err != string(*n.HandlerErr):
		if !tampered {
			return fmt.Sprintf("the handler has failed with %q", *n.HandlerErr)
		}
	case n.Got != n.Answered:
		return fmt.Sprintf("%d of %d messages arrived", n.Got, n.Answered)
	case c.coded() && !c.codedRight(n.Err):
		return fmt.Sprintf("it has the code %v", grid.CodeOf(n.Err))
	case n.Cut && !tampered && !n.mayBeCut(c, s):
		return "nobody has given it up"
	}
	return ""
}

// codedRight reports whether an error has the code and the details of the call.
func (c *Call) codedRight(err error) bool {
	var e *grid.Error
	return errors.As(err, &e) && e.Code == c.code() && string(e.Details) == strconv.FormatUint(c.ID, 10) && errors.Is(err, c.code())
}

// mayBeCut reports whether the handler's context had a reason to end before the handler did.
func (n *Notes) mayBeCut(c *Call, s Surroundings) bool {
	ended := n.HandlerEnded
	if ended == 0 {
		ended = n.Ended // it is just about to
	}
	return c.Deadline > 0 && ended >= n.Began+c.Deadline || c.Cancel > 0 && ended >= n.Began+c.Cancel || c.Races ||
		n.Ended < ended || ended >= n.Began+time.Minute || s.MayLose(c.From, c.To, n.Began, ended)
}
