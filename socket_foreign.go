package grid

import (
	"errors"
	"fmt"
	"net"
	"time"
)

// foreignConn is a connection of ManagerOptions.Dialer that is not one of package net. Its methods
// are the application's code, and those that call them must not panic: readers, writers, and
// whoever ends a session. What blocks in them must end when it is closed, as with any net.Conn;
// Close itself is not waited for.
type foreignConn struct{ conn net.Conn }

// guardConn guards what a Dialer has returned.
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

// CloseWrite is for connections that can be closed in one direction.
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

// foreignAddr is what a method returns, or else no address in particular.
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

// panicked makes an error of a panic.
func (foreignConn) panicked(method string, err *error) {
	if r := recover(); r != nil {
		*err = fmt.Errorf("%s of the Dialer's connection panicked: %v", method, r)
	}
}
