package link

import (
	"fmt"
	"os"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"
)

// cable joins two namespaces. The ends of both interfaces are in this process, which delays and
// loses frames: so it needs no netem, which not every kernel has.
type cable struct {
	*namespaces
	taps [2]*os.File
	down atomic.Bool
}

const (
	cableMTU    = 9000 // bytes: jumbo frames, so that one process can carry a gigabit a second
	etherHeader = 14
)

func openCable(s Spec) (Link, error) {
	n, err := openNamespaces()
	if err != nil {
		return nil, err
	}
	c := &cable{namespaces: n}
	for side := range c.taps {
		if c.taps[side], err = n.newTap(side); err != nil {
			c.Close()
			return nil, err
		}
	}
	for side := range c.taps {
		go c.carry(c.taps[1-side], c.taps[side], s)
	}
	return c, nil
}

func (n *namespaces) newTap(side int) (*os.File, error) {
	var fd int
	err := n.Run(side, func() (err error) {
		fd, err = unix.Open("/dev/net/tun", unix.O_RDWR|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
		if err != nil {
			return fmt.Errorf("/dev/net/tun: %w", err)
		}
		request, err := unix.NewIfreq(interfaceName)
		if err != nil {
			return err
		}
		request.SetUint16(unix.IFF_TAP | unix.IFF_NO_PI)
		if err := unix.IoctlIfreq(fd, unix.TUNSETIFF, request); err != nil {
			unix.Close(fd)
			return fmt.Errorf("TAP device: %w", err)
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	tap := os.NewFile(uintptr(fd), interfaceName) // after TUNSETIFF: only then it can be polled
	err = n.ip(side, fmt.Sprintf("link set dev %s mtu %d", interfaceName, cableMTU))
	if err == nil {
		err = n.address(side)
	}
	if err != nil {
		tap.Close()
		return nil, err
	}
	return tap, nil
}

func (c *cable) SetDown(down bool) { c.down.Store(down) }

func (c *cable) Close() {
	for _, tap := range c.taps {
		if tap != nil {
			tap.Close()
		}
	}
	c.namespaces.Close()
}

// frame is on its way.
type frame struct {
	due  time.Time
	data []byte
}

// carry is one direction.
func (c *cable) carry(to, from *os.File, s Spec) {
	onWay := make(chan frame, 1<<16)
	defer close(onWay)
	go deliver(to, onWay)
	l := newLane(s)
	buf := make([]byte, cableMTU+etherHeader)
	for {
		n, err := from.Read(buf)
		if err != nil {
			return
		}
		if c.down.Load() {
			continue
		}
		due, ok := l.pass(time.Now(), n)
		if !ok {
			continue
		}
		select {
		case onWay <- frame{due, append([]byte(nil), buf[:n]...)}:
		default: // as where the queue is full
		}
	}
}

// deliver writes frames when they are due.
func deliver(to *os.File, frames <-chan frame) {
	for f := range frames {
		time.Sleep(time.Until(f.due))
		to.Write(f.data) //nolint:errcheck // fails where the interface is down: then nobody is there
	}
}
