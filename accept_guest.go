package grid

import (
	"errors"
	"fmt"
	"net/http"
)

// identifyGuest returns the connection to a guest that may connect, held. It is not decided before
// VerifyPeer has confirmed who the guest is; secret marks errors until then.
//
// A guest may know this node by another name than the hosts do. Only a name of another host says that
// it has gone astray.
func (a *acceptor) identifyGuest(r *http.Request, g *greeting, req *connectReq, secret func(error) error) (*Connection, error) {
	name := req.Host
	if a.ctx.Err() != nil {
		return nil, ErrShutdown
	}
	if a.members.Load().get(req.To) != nil {
		return nil, secret(&wrongNodeError{g.socket.LocalAddr().String(), a.Local, req.To})
	}
	if err := checkGuest(name); err != nil {
		return nil, secret(fmt.Errorf("%s: %w", guestRefused, err))
	}
	if err := a.verify(r, name); err != nil {
		return nil, secret(fmt.Errorf("not verified as %s: %w", name, err))
	}
	if err := a.askGuest(r, name); err != nil {
		return nil, err
	}
	return a.guests.hold(name)
}

// askGuest lets AcceptGuest decide. The guest learns why not, but nothing of a panic.
func (a *acceptor) askGuest(r *http.Request, name string) error {
	answered := false
	err := a.ask("AcceptGuest", r, func() error {
		err := a.AcceptGuest(r, name)
		if err != nil {
			err = errors.New(clip(err.Error())) // which is the application's, too
		}
		answered = true
		return err
	})
	switch {
	case err == nil:
		return nil
	case !answered:
		return &secretError{err}
	}
	return fmt.Errorf("%s: %w", guestRefused, err)
}
