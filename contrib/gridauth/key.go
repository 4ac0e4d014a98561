package gridauth

import (
	"bytes"
	"crypto/subtle"
	"encoding/json"
	"errors"
	"fmt"
	"strings"

	"github.com/golang-jwt/jwt/v5"
)

const (
	// MinSecret is the minimum number of bytes of a secret: the size of the hash, as RFC 7518, 3.2
	// requires for HS256.
	MinSecret = 32
	maxKeyID  = 64 // bytes
)

// Key is a secret and its name. It is printed as its name alone.
type Key struct {
	// ID names the key in tokens and logs, and is not secret: 1 to 64 printable ASCII characters,
	// such as the month in which it was made.
	ID string
	// Secret is at least MinSecret random bytes, such as from openssl rand 32. It is copied.
	Secret []byte
}

// String returns the ID.
func (k Key) String() string { return "key " + k.ID }

// GoString returns the ID.
func (k Key) GoString() string { return fmt.Sprintf("gridauth.Key{ID: %q}", k.ID) }

// MarshalJSON returns the ID.
func (k Key) MarshalJSON() ([]byte, error) { return json.Marshal(k.ID) }

func (k Key) check() error {
	switch {
	case k.ID == "":
		return errors.New("gridauth: key without an ID")
	case len(k.ID) > maxKeyID || strings.ContainsFunc(k.ID, func(r rune) bool { return r < ' ' || r > '~' }):
		return fmt.Errorf("gridauth: key ID %.64q is not 1 to %d printable ASCII characters", k.ID, maxKeyID)
	case len(k.Secret) < MinSecret:
		return fmt.Errorf("gridauth: the secret of key %q has %d bytes, fewer than %d", k.ID, len(k.Secret), MinSecret)
	case bytes.Count(k.Secret, k.Secret[:1]) == len(k.Secret):
		return fmt.Errorf("gridauth: the secret of key %q is one byte again and again", k.ID)
	}
	return nil
}

// keyring is a set of keys, which does not change.
type keyring struct {
	sign    string // ID of the key that signs
	secrets map[string][]byte
}

func newKeyring(sign Key, verify []Key) (*keyring, error) {
	ring := &keyring{sign: sign.ID, secrets: make(map[string][]byte)}
	for _, k := range append([]Key{sign}, verify...) {
		if err := k.check(); err != nil {
			return nil, err
		}
		if other, ok := ring.secrets[k.ID]; ok && subtle.ConstantTimeCompare(other, k.Secret) == 0 {
			return nil, fmt.Errorf("gridauth: two keys with the ID %q", k.ID)
		}
		ring.secrets[k.ID] = bytes.Clone(k.Secret)
	}
	return ring, nil
}

// secretFor is a jwt.Keyfunc. The algorithm has been checked by then.
func (k *keyring) secretFor(token *jwt.Token) (any, error) {
	if _, ok := token.Header["crit"]; ok {
		return nil, errors.New("the token demands an extension") // RFC 7515, 4.1.11
	}
	id, ok := token.Header["kid"].(string)
	if !ok {
		return nil, errors.New("the token has no key ID")
	}
	secret, ok := k.secrets[id]
	if !ok {
		return nil, fmt.Errorf("unknown key ID %.64q", id)
	}
	return secret, nil
}
