package grid

import (
	"errors"
	"fmt"
	"net"
	"time"
)

// foreignConn is a connection of ManagerOptions.Dialer that does not come from package net. Its
// methods are application code, and must not make their callers panic: readers, writers, and
// whatever ends a session. As with any net.Conn, closing it must end whatever blocks in it; nothing
// waits for Close itself.
type foreignConn struct{ conn net.Conn }

// guardConn guards a connection that a Dialer returned.
func guardConn(c net.Conn) net.Conn {
	switch c.(type) {
	case *net.TCPConn, *net.UnixConn:
		return c
	}
	return foreignConn{c}
}

func (f foreignConn) Read(b []byte) (n int, err error) {
	defer f.panicked("Read", &err)
	return f.conn.Read(b)
}

func (f foreignConn) Write(b []byte) (n int, err error) {
	defer f.panicked("Write", &err)
	return f.conn.Write(b)
}

func (f foreignConn) Close() error {
	go guarded(func() { rawSocket(f.conn).Close() }, func(endedBy, any) {})
	return nil
}

// CloseWrite closes the writing direction if the connection can do so.
func (f foreignConn) CloseWrite() (err error) {
	defer f.panicked("CloseWrite", &err)
	if half, ok := rawSocket(f.conn).(interface{ CloseWrite() error }); ok {
		return half.CloseWrite()
	}
	return errors.ErrUnsupported
}

func (f foreignConn) SetDeadline(t time.Time) (err error) {
	defer f.panicked("SetDeadline", &err)
	return f.conn.SetDeadline(t)
}

func (f foreignConn) SetReadDeadline(t time.Time) (err error) {
	defer f.panicked("SetReadDeadline", &err)
	return f.conn.SetReadDeadline(t)
}

func (f foreignConn) SetWriteDeadline(t time.Time) (err error) {
	defer f.panicked("SetWriteDeadline", &err)
	return f.conn.SetWriteDeadline(t)
}

func (f foreignConn) LocalAddr() net.Addr  { return foreignAddr(f.conn.LocalAddr) }
func (f foreignConn) RemoteAddr() net.Addr { return foreignAddr(f.conn.RemoteAddr) }

// foreignAddr returns what a method returns, or a placeholder if that is nil or panics.
func foreignAddr(of func() net.Addr) (a net.Addr) {
	unknown := &net.UnixAddr{Name: "unknown", Net: "unknown"}
	defer func() {
		if recover() != nil || a == nil {
			a = unknown
		}
	}()
	a = of()
	return &net.UnixAddr{Name: a.String(), Net: a.Network()}
}

// panicked turns a panic into an error.
func (foreignConn) panicked(method string, err *error) {
	if r := recover(); r != nil {
		*err = fmt.Errorf("%s of the Dialer's connection panicked: %v", method, r)
	}
}
