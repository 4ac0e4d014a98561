package grid

import (
	"fmt"
	"net/http"
	"runtime/debug"
)

// admit decides whether the sender of a request may connect. An error says why not.
func (a *acceptor) admit(r *http.Request) error {
	err := a.ask("AuthRequest", r, func() error { return a.AuthRequest(r) }) // before anything else is examined or revealed
	if err != nil {
		return err
	}
	return a.ask("AllowOrigin", r, func() error { return a.checkOrigin(r) })
}

// ask calls a function of the application that decides about a request. A panic lets nobody in.
// Every stranger that knocks may cause one, and net/http would log the stack each time.
func (a *acceptor) ask(callback string, r *http.Request, decide func() error) (err error) {
	defer func() {
		p := recover()
		if p == nil {
			return
		}
		err = fmt.Errorf("%s panicked: %v", callback, p)
		a.panicked(callback, r.RemoteAddr)(p, debug.Stack())
	}()
	return decide()
}

// verify lets VerifyPeer decide whether a peer is the host it claims to be.
func (a *acceptor) verify(r *http.Request, host string) error {
	if a.VerifyPeer == nil {
		return nil
	}
	return a.ask("VerifyPeer", r, func() error { return a.VerifyPeer(r, host) })
}

// checkOrigin refuses requests from web pages: a browser may hold credentials, such as a client
// certificate, and uses them for any page.
func (a *acceptor) checkOrigin(r *http.Request) error {
	for _, origin := range r.Header.Values("Origin") {
		if a.AllowOrigin == nil || !a.AllowOrigin(origin) {
			return fmt.Errorf("came from a browser, with Origin %q", clip(origin))
		}
	}
	return nil
}
