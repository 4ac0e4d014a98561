// Package gridauth lets the nodes of a grid prove to each other that they share a secret. They do
// not send the secret but a JSON Web Token signed with it (HS256), for one grid, with the node's
// name, and valid for a minute or so.
//
//	auth, err := gridauth.New(gridauth.Options{
//		Host:     local, // as in ManagerOptions.Local
//		Audience: "orders",
//		Sign:     gridauth.Key{ID: "2026-11", Secret: secret},
//	})
//	if err != nil {
//		return err
//	}
//	m, err := grid.NewManager(ctx, grid.ManagerOptions{
//		Local:       local,
//		Hosts:       hosts,
//		AddAuth:     auth.AddAuth,
//		AuthRequest: auth.AuthRequest,
//		VerifyPeer:  auth.VerifyPeer,
//	})
//
// # What it protects, and what not
//
// A shared secret protects the node that is dialed: it knows that the dialer has the secret. The
// dialer gets no proof in return. Use https names, so that TLS authenticates the dialed node, and
// keeps others on the path from reading tokens: anybody who reads one can use it, under the name in
// it, for as long as it is valid.
//
// Everybody who has the secret can sign for any name. VerifyPeer binds a token to a name, which
// protects against stolen tokens and misconfigured nodes; it does not keep members from posing as
// each other. Mutual TLS does: see grid.VerifyPeerCertificate. Both can be used together.
//
// Keys are looked up when a connection is made: removing a key does not end connections.
package gridauth

import (
	"errors"
	"fmt"
	"net/http"
	"strings"
	"sync/atomic"
	"time"

	"github.com/golang-jwt/jwt/v5"
)

const (
	// DefaultLifetime is how long a token is valid if Options.Lifetime is 0.
	DefaultLifetime = time.Minute
	// MaxLifetime is the longest lifetime that a token may have, whoever signed it.
	MaxLifetime = 15 * time.Minute
	// DefaultSkew is how far clocks may differ if Options.Skew is 0.
	DefaultSkew = 30 * time.Second
	// MaxSkew is the largest Options.Skew.
	MaxSkew = 5 * time.Minute

	maxToken = 4 << 10 // bytes of a token that is looked at
)

// Options configures an Auth. Host, Audience and Sign are required.
type Options struct {
	// Host is the name of this node, as in ManagerOptions.Local. It is the subject of its tokens.
	Host string
	// Audience is the name of the grid: tokens for another one are refused. It must be the same on
	// all nodes.
	Audience string
	// Sign is the key for this node's own tokens. It also verifies.
	Sign Key
	// Verify are further keys whose tokens are accepted. It may be empty.
	Verify []Key
	// Lifetime is how long tokens of this node are valid. 0 means DefaultLifetime; at most
	// MaxLifetime.
	Lifetime time.Duration
	// Skew is how far the clocks of two nodes may differ. 0 means DefaultSkew; at most MaxSkew. A
	// token can be used for its lifetime and twice the skew.
	Skew time.Duration
}

// Auth makes tokens for a node and checks those of others. Its methods may be called by any number
// of goroutines.
type Auth struct {
	host, audience string
	lifetime       time.Duration
	parser         *jwt.Parser
	keys           atomic.Pointer[keyring]
}

// New returns an Auth. An error names the invalid option; it never contains a secret.
func New(o Options) (*Auth, error) {
	if o.Lifetime == 0 {
		o.Lifetime = DefaultLifetime
	}
	if o.Skew == 0 {
		o.Skew = DefaultSkew
	}
	switch {
	case o.Host == "":
		return nil, errors.New("gridauth: Options.Host is required")
	case o.Audience == "":
		return nil, errors.New("gridauth: Options.Audience is required")
	case o.Lifetime < time.Second || o.Lifetime > MaxLifetime:
		return nil, fmt.Errorf("gridauth: Options.Lifetime: %v is not between 1s and %v", o.Lifetime, MaxLifetime)
	case o.Skew < 0 || o.Skew > MaxSkew:
		return nil, fmt.Errorf("gridauth: Options.Skew: %v is not between 0 and %v", o.Skew, MaxSkew)
	}
	a := &Auth{host: o.Host, audience: o.Audience, lifetime: o.Lifetime}
	a.parser = jwt.NewParser(
		jwt.WithValidMethods([]string{jwt.SigningMethodHS256.Alg()}),
		jwt.WithAudience(o.Audience),
		jwt.WithExpirationRequired(),
		jwt.WithNotBeforeRequired(),
		jwt.WithIssuedAt(),
		jwt.WithLeeway(o.Skew),
		jwt.WithStrictDecoding(),
	)
	if err := a.SetKeys(o.Sign, o.Verify...); err != nil {
		return nil, err
	}
	return a, nil
}

// SetKeys replaces all keys, atomically, for all requests that follow. sign signs, and verifies
// too. After an error the old keys stay.
//
// To change the key of a running grid, go over all nodes three times: first SetKeys(old, next),
// then SetKeys(next, old), then SetKeys(next).
func (a *Auth) SetKeys(sign Key, verify ...Key) error {
	k, err := newKeyring(sign, verify)
	if err != nil {
		return err
	}
	a.keys.Store(k)
	return nil
}

// AddAuth is for ManagerOptions.AddAuth: it returns a new token of this node. aud is the audience
// of the token; if it is empty, as grid passes it, the audience is Options.Audience.
func (a *Auth) AddAuth(aud string) string {
	if aud == "" {
		aud = a.audience
	}
	now := time.Now()
	token := jwt.NewWithClaims(jwt.SigningMethodHS256, jwt.RegisteredClaims{
		Subject:   a.host,
		Audience:  jwt.ClaimStrings{aud},
		IssuedAt:  jwt.NewNumericDate(now),
		NotBefore: jwt.NewNumericDate(now),
		ExpiresAt: jwt.NewNumericDate(now.Add(a.lifetime)),
	})
	keys := a.keys.Load()
	token.Header["kid"] = keys.sign
	signed, err := token.SignedString(keys.secrets[keys.sign])
	if err != nil {
		return "" // cannot be: HMAC takes every key
	}
	return signed
}

// AuthRequest is for ManagerOptions.AuthRequest: it accepts requests with a bearer token signed by
// one of the keys, for this grid and valid now. The error says what is wrong, and contains no part
// of the token but its key ID. errors.Is finds the errors of the jwt package in it.
func (a *Auth) AuthRequest(r *http.Request) error {
	_, err := a.subject(r)
	return err
}

// VerifyPeer is for ManagerOptions.VerifyPeer: it accepts host only with a token that was made for
// that name, and that AuthRequest would accept.
func (a *Auth) VerifyPeer(r *http.Request, host string) error {
	subject, err := a.subject(r)
	if err != nil {
		return err
	}
	if subject != host {
		return fmt.Errorf("gridauth: the token is of %q", subject)
	}
	return nil
}

// subject returns the name that the token of a request was made for.
func (a *Auth) subject(r *http.Request) (string, error) {
	raw, err := bearer(r)
	if err != nil {
		return "", err
	}
	var claims jwt.RegisteredClaims
	if _, err := a.parser.ParseWithClaims(raw, &claims, a.keys.Load().secretFor); err != nil {
		return "", fmt.Errorf("gridauth: %w", err)
	}
	switch {
	case claims.Subject == "":
		return "", errors.New("gridauth: the token has no subject")
	case claims.IssuedAt == nil:
		return "", errors.New("gridauth: the token does not say when it was issued")
	case claims.ExpiresAt.Sub(claims.IssuedAt.Time) > MaxLifetime, claims.ExpiresAt.Sub(claims.NotBefore.Time) > MaxLifetime:
		return "", fmt.Errorf("gridauth: the token's lifetime is over %v", MaxLifetime)
	}
	return claims.Subject, nil
}

// bearer returns the token of a request. It is the only one there.
func bearer(r *http.Request) (string, error) {
	values := r.Header.Values("Authorization")
	switch len(values) {
	case 0:
		return "", errors.New("gridauth: no Authorization header")
	case 1:
	default:
		return "", errors.New("gridauth: several Authorization headers")
	}
	scheme, token, found := strings.Cut(values[0], " ")
	switch {
	case !found || !strings.EqualFold(scheme, "Bearer"):
		return "", errors.New("gridauth: Authorization is not a bearer token")
	case token == "":
		return "", errors.New("gridauth: empty bearer token")
	case len(token) > maxToken:
		return "", fmt.Errorf("gridauth: bearer token of more than %d bytes", maxToken)
	}
	return token, nil
}
