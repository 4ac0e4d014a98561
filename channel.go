package grid

// signal leaves a signal in a channel with room for one.
func signal(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

// alwaysDone is a closed channel.
var alwaysDone = func() <-chan struct{} {
	c := make(chan struct{})
	close(c)
	return c
}()

// isClosed reports whether a channel is closed on which nothing is sent.
func isClosed(c <-chan struct{}) bool {
	select {
	case <-c:
		return true
	default:
		return false
	}
}
