package gridauth

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/golang-jwt/jwt/v5"
)

const (
	thisHost = "http://node1.example:9000"
	thatHost = "http://node2.example:9000"
	grid1    = "orders"
)

// key returns a key whose secret follows from its ID.
func key(id string) Key {
	return Key{ID: id, Secret: []byte(strings.Repeat(id+".", MinSecret))[:MinSecret]}
}

func newAuth(t *testing.T, edit func(*Options)) *Auth {
	t.Helper()
	o := Options{Host: thisHost, Audience: grid1, Sign: key("k1")}
	if edit != nil {
		edit(&o)
	}
	a, err := New(o)
	if err != nil {
		t.Fatal(err)
	}
	return a
}

// bearing is a request with Authorization headers.
func bearing(values ...string) *http.Request {
	return &http.Request{Header: http.Header{"Authorization": values}}
}

func TestATokenIsTaken(t *testing.T) {
	ours := newAuth(t, nil)
	theirs := newAuth(t, func(o *Options) { o.Host = thatHost })
	for _, scheme := range []string{"Bearer ", "bearer ", "BEARER "} {
		r := bearing(scheme + theirs.AddAuth(""))
		if err := ours.AuthRequest(r); err != nil {
			t.Errorf("%s: %v", scheme, err)
		}
		if err := ours.VerifyPeer(r, thatHost); err != nil {
			t.Errorf("%s: %v", scheme, err)
		}
	}
	err := ours.VerifyPeer(bearing("Bearer "+theirs.AddAuth("")), "http://node3.example:9000")
	if err == nil || !strings.Contains(err.Error(), thatHost) {
		t.Errorf("a token for another name got %v", err)
	}
	if err := ours.VerifyPeer(bearing("Bearer soup"), thatHost); !errors.Is(err, jwt.ErrTokenMalformed) {
		t.Errorf("garbage got %v", err)
	}
}

func TestWhatATokenSays(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := newAuth(t, func(o *Options) { o.Lifetime = 5 * time.Minute })
		for aud, want := range map[string]string{"": grid1, "invoices": "invoices"} {
			var claims jwt.RegisteredClaims
			token, _, err := jwt.NewParser().ParseUnverified(a.AddAuth(aud), &claims)
			if err != nil {
				t.Fatal(err)
			}
			if token.Header["alg"] != "HS256" || token.Header["kid"] != "k1" {
				t.Errorf("the header is %v", token.Header)
			}
			now := time.Now()
			if claims.Subject != thisHost || len(claims.Audience) != 1 || claims.Audience[0] != want ||
				!claims.IssuedAt.Equal(now) || !claims.NotBefore.Equal(now) || !claims.ExpiresAt.Equal(now.Add(5*time.Minute)) {
				t.Errorf("the claims are %+v", claims)
			}
		}
	})
}

func TestATokenExpires(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := newAuth(t, func(o *Options) { o.Lifetime, o.Skew = 20*time.Second, 10*time.Second })
		r := bearing("Bearer " + a.AddAuth(""))
		time.Sleep(30*time.Second - time.Nanosecond)
		if err := a.AuthRequest(r); err != nil {
			t.Errorf("refused within the skew: %v", err)
		}
		time.Sleep(time.Nanosecond)
		if err := a.AuthRequest(r); !errors.Is(err, jwt.ErrTokenExpired) {
			t.Errorf("after its end a token got %v", err)
		}
	})
}

// forgery is a token as somebody with or without the secret may make it.
type forgery struct {
	method jwt.SigningMethod
	key    any
	header map[string]any // nil values: none of that name
	claims map[string]any // the same
}

func (f forgery) sign(t *testing.T, now time.Time) string {
	t.Helper()
	claims := jwt.MapClaims{"sub": thatHost, "aud": grid1, "iat": now.Unix(), "nbf": now.Unix(), "exp": now.Add(time.Minute).Unix()}
	for name, v := range f.claims {
		claims[name] = v
		if v == nil {
			delete(claims, name)
		}
	}
	if f.method == nil {
		f.method = jwt.SigningMethodHS256
	}
	if f.key == nil {
		f.key = key("k1").Secret
	}
	token := jwt.NewWithClaims(f.method, claims)
	token.Header["kid"] = "k1"
	for name, v := range f.header {
		token.Header[name] = v
		if v == nil {
			delete(token.Header, name)
		}
	}
	signed, err := token.SignedString(f.key)
	if err != nil {
		t.Fatal(err)
	}
	return signed
}

func TestForgedTokensAreRefused(t *testing.T) {
	rsaKey, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	ecKey, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	now := time.Now()
	at := func(d time.Duration) int64 { return now.Add(d).Unix() }
	segment := func(text string) string { return base64.RawURLEncoding.EncodeToString([]byte(text)) }
	good := forgery{}.sign(t, now)
	parts := strings.Split(good, ".")
	a := newAuth(t, func(o *Options) { o.Verify = []Key{key("k2")} })
	if err := a.AuthRequest(bearing("Bearer " + good)); err != nil {
		t.Fatalf("the good token is refused: %v", err)
	}

	for _, test := range []struct {
		name  string
		token string
		is    error  // may be nil
		want  string // in the error
	}{
		// Algorithms.
		{"no algorithm", forgery{method: jwt.SigningMethodNone, key: jwt.UnsafeAllowNoneSignatureType}.sign(t, now), jwt.ErrTokenSignatureInvalid, "signing method none"},
		{"no algorithm, in other letters", segment(`{"alg":"nOnE","kid":"k1"}`) + "." + parts[1] + ".", jwt.ErrTokenUnverifiable, "unavailable"},
		{"no algorithm, with the signature of another", segment(`{"alg":"none","kid":"k1"}`) + "." + parts[1] + "." + parts[2], jwt.ErrTokenSignatureInvalid, ""},
		{"an algorithm that is no text", segment(`{"alg":256,"kid":"k1"}`) + "." + parts[1] + "." + parts[2], jwt.ErrTokenUnverifiable, "unspecified"},
		{"HS384 with the secret", forgery{method: jwt.SigningMethodHS384}.sign(t, now), jwt.ErrTokenSignatureInvalid, "signing method HS384"},
		{"HS512 with the secret", forgery{method: jwt.SigningMethodHS512}.sign(t, now), jwt.ErrTokenSignatureInvalid, "signing method HS512"},
		{"RS256", forgery{method: jwt.SigningMethodRS256, key: rsaKey}.sign(t, now), jwt.ErrTokenSignatureInvalid, "signing method RS256"},
		{"ES256", forgery{method: jwt.SigningMethodES256, key: ecKey}.sign(t, now), jwt.ErrTokenSignatureInvalid, "signing method ES256"},

		// Signatures and keys.
		{"another secret", forgery{key: key("other").Secret}.sign(t, now), jwt.ErrTokenSignatureInvalid, ""},
		{"an empty secret", forgery{key: []byte{}}.sign(t, now), jwt.ErrTokenSignatureInvalid, ""},
		{"no signature", parts[0] + "." + parts[1] + ".", jwt.ErrTokenSignatureInvalid, ""},
		{"half a signature", good[:len(good)-19], jwt.ErrTokenSignatureInvalid, ""},
		{"other claims under the signature", parts[0] + "." + segment(`{"sub":"x"}`) + "." + parts[2], jwt.ErrTokenSignatureInvalid, ""},
		{"the key of another ID", forgery{header: map[string]any{"kid": "k2"}}.sign(t, now), jwt.ErrTokenSignatureInvalid, ""},
		{"an unknown key ID", forgery{header: map[string]any{"kid": "k3"}}.sign(t, now), jwt.ErrTokenUnverifiable, `unknown key ID "k3"`},
		{"an empty key ID", forgery{header: map[string]any{"kid": ""}}.sign(t, now), jwt.ErrTokenUnverifiable, `unknown key ID ""`},
		{"a long key ID", forgery{header: map[string]any{"kid": strings.Repeat("k", 1000)}}.sign(t, now), jwt.ErrTokenUnverifiable, `"` + strings.Repeat("k", 64) + `"`},
		{"no key ID", forgery{header: map[string]any{"kid": nil}}.sign(t, now), jwt.ErrTokenUnverifiable, "no key ID"},
		{"a key ID that is no text", forgery{header: map[string]any{"kid": 1}}.sign(t, now), jwt.ErrTokenUnverifiable, "no key ID"},
		{"an extension", forgery{header: map[string]any{"crit": []string{"b64"}}}.sign(t, now), jwt.ErrTokenUnverifiable, "demands an extension"},

		// Times. The skew is 30 seconds.
		{"expired", forgery{claims: map[string]any{"iat": at(-2 * time.Minute), "nbf": at(-2 * time.Minute), "exp": at(-time.Minute)}}.sign(t, now), jwt.ErrTokenExpired, ""},
		{"not valid yet", forgery{claims: map[string]any{"nbf": at(time.Minute), "exp": at(2 * time.Minute)}}.sign(t, now), jwt.ErrTokenNotValidYet, ""},
		{"issued in the future", forgery{claims: map[string]any{"iat": at(time.Minute), "exp": at(2 * time.Minute)}}.sign(t, now), jwt.ErrTokenUsedBeforeIssued, ""},
		{"too long a lifetime", forgery{claims: map[string]any{"exp": at(MaxLifetime + time.Minute)}}.sign(t, now), nil, "lifetime is over 15m0s"},
		{"valid for ever", forgery{claims: map[string]any{"exp": int64(1) << 52}}.sign(t, now), nil, "lifetime is over 15m0s"},
		{"a long lifetime behind an old start", forgery{claims: map[string]any{"nbf": at(-time.Hour), "exp": at(time.Minute)}}.sign(t, now), nil, "lifetime is over 15m0s"},
		{"a long lifetime behind an old issue", forgery{claims: map[string]any{"iat": at(-time.Hour), "exp": at(time.Minute)}}.sign(t, now), nil, "lifetime is over 15m0s"},
		{"no end", forgery{claims: map[string]any{"exp": nil}}.sign(t, now), jwt.ErrTokenRequiredClaimMissing, "exp"},
		{"no start", forgery{claims: map[string]any{"nbf": nil}}.sign(t, now), jwt.ErrTokenRequiredClaimMissing, "nbf"},
		{"no issue", forgery{claims: map[string]any{"iat": nil}}.sign(t, now), nil, "issued"},
		{"an end that is text", forgery{claims: map[string]any{"exp": "tomorrow"}}.sign(t, now), jwt.ErrTokenMalformed, ""},
		{"an end beyond all numbers", forgery{claims: map[string]any{"exp": 1e300}}.sign(t, now), nil, ""},
		{"a start before all numbers", forgery{claims: map[string]any{"iat": -1e300, "nbf": -1e300}}.sign(t, now), nil, ""},

		// For whom, and of whom.
		{"another audience", forgery{claims: map[string]any{"aud": "invoices"}}.sign(t, now), jwt.ErrTokenInvalidAudience, ""},
		{"an audience that starts so", forgery{claims: map[string]any{"aud": grid1 + "2"}}.sign(t, now), jwt.ErrTokenInvalidAudience, ""},
		{"other audiences", forgery{claims: map[string]any{"aud": []string{"invoices", "Orders"}}}.sign(t, now), jwt.ErrTokenInvalidAudience, ""},
		{"no audience", forgery{claims: map[string]any{"aud": nil}}.sign(t, now), jwt.ErrTokenRequiredClaimMissing, "aud"},
		{"an empty audience", forgery{claims: map[string]any{"aud": ""}}.sign(t, now), jwt.ErrTokenRequiredClaimMissing, "aud"},
		{"no subject", forgery{claims: map[string]any{"sub": nil}}.sign(t, now), nil, "no subject"},

		// What is no token.
		{"one segment", "soup", jwt.ErrTokenMalformed, "segments"},
		{"four segments", good + "." + parts[0], jwt.ErrTokenMalformed, "segments"},
		{"a header that is no base64", "!!." + parts[1] + "." + parts[2], jwt.ErrTokenMalformed, "header"},
		{"a header that is no JSON", segment("soup") + "." + parts[1] + "." + parts[2], jwt.ErrTokenMalformed, "header"},
		{"a header that is a list", segment("[]") + "." + parts[1] + "." + parts[2], jwt.ErrTokenMalformed, "header"},
		{"a header that is nothing", segment("null") + "." + parts[1] + "." + parts[2], jwt.ErrTokenUnverifiable, ""},
		{"claims that are no JSON", parts[0] + "." + segment("soup") + "." + parts[2], jwt.ErrTokenMalformed, "claim"},
		{"a signature that is no base64", parts[0] + "." + parts[1] + ".!!", jwt.ErrTokenMalformed, "signature"},
		{"the same signature in other letters", parts[0] + "." + parts[1] + "." + respell(parts[2]), jwt.ErrTokenMalformed, "signature"},
		{"padding", good + "=", jwt.ErrTokenMalformed, "signature"},
		{"a token behind spaces", " " + good, jwt.ErrTokenMalformed, ""},
		{"a token that is too long", good + strings.Repeat("x", maxToken), nil, "more than 4096 bytes"},
		{"nothing", "", nil, "empty bearer token"},
	} {
		t.Run(test.name, func(t *testing.T) {
			r := bearing("Bearer " + test.token)
			err := a.AuthRequest(r)
			if err == nil || !strings.HasPrefix(err.Error(), "gridauth: ") || !strings.Contains(err.Error(), test.want) ||
				test.is != nil && !errors.Is(err, test.is) {
				t.Fatalf("got %v, want %v with %q", err, test.is, test.want)
			}
			if len(err.Error()) > 300 || strings.Contains(err.Error(), "\n") {
				t.Errorf("the error is %q", err)
			}
			for _, part := range append(strings.Split(test.token, "."), test.token) {
				if len(part) > 10 && strings.Contains(err.Error(), part) {
					t.Errorf("part of the token is in the error %q", err)
				}
			}
			if err := a.VerifyPeer(r, thatHost); err == nil {
				t.Error("VerifyPeer takes it")
			}
		})
	}
}

// respell changes the bits of the last letter that stand for nothing: 32 bytes are 42 letters and
// two thirds.
func respell(signature string) string {
	const letters = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
	last := len(signature) - 1
	return signature[:last] + string(letters[strings.IndexByte(letters, signature[last])+1])
}

func TestMalformedHeadersAreRefused(t *testing.T) {
	a := newAuth(t, nil)
	good := a.AddAuth("")
	for _, test := range []struct {
		name   string
		values []string
		want   string
	}{
		{"none", nil, "no Authorization header"},
		{"an empty one", []string{""}, "not a bearer token"},
		{"the token alone", []string{good}, "not a bearer token"},
		{"another scheme", []string{"Basic " + good}, "not a bearer token"},
		{"a longer scheme", []string{"BearerX " + good}, "not a bearer token"},
		{"the scheme alone", []string{"Bearer"}, "not a bearer token"},
		{"no token", []string{"Bearer "}, "empty bearer token"},
		{"two, the first good", []string{"Bearer " + good, "Bearer other"}, "several Authorization headers"},
		{"two in one", []string{"Bearer " + good + ", Bearer " + good}, "malformed"},
	} {
		err := a.AuthRequest(bearing(test.values...))
		if err == nil || !strings.Contains(err.Error(), test.want) {
			t.Errorf("%s: got %v, want %q", test.name, err, test.want)
		}
	}
}

func TestWrongOptionsAreNamed(t *testing.T) {
	for _, test := range []struct {
		name string
		edit func(*Options)
		want string
	}{
		{"no host", func(o *Options) { o.Host = "" }, "Options.Host"},
		{"no audience", func(o *Options) { o.Audience = "" }, "Options.Audience"},
		{"too short a lifetime", func(o *Options) { o.Lifetime = time.Millisecond }, "Options.Lifetime"},
		{"a negative lifetime", func(o *Options) { o.Lifetime = -time.Minute }, "Options.Lifetime"},
		{"too long a lifetime", func(o *Options) { o.Lifetime = MaxLifetime + 1 }, "Options.Lifetime"},
		{"a negative skew", func(o *Options) { o.Skew = -1 }, "Options.Skew"},
		{"too large a skew", func(o *Options) { o.Skew = MaxSkew + 1 }, "Options.Skew"},
		{"no key", func(o *Options) { o.Sign = Key{} }, "without an ID"},
		{"no secret", func(o *Options) { o.Sign.Secret = nil }, `"k1" has 0 bytes`},
		{"a short secret", func(o *Options) { o.Sign.Secret = o.Sign.Secret[:MinSecret-1] }, `"k1" has 31 bytes, fewer than 32`},
		{"a dull secret", func(o *Options) { o.Sign.Secret = make([]byte, 64) }, "one byte again and again"},
		{"a short secret to verify with", func(o *Options) { o.Verify = []Key{{ID: "k2", Secret: []byte("short")}} }, `"k2" has 5 bytes`},
		{"a key ID that is too long", func(o *Options) { o.Sign.ID = strings.Repeat("k", 65) }, "printable"},
		{"a key ID that cannot be printed", func(o *Options) { o.Sign.ID = "k\n1" }, "printable"},
		{"two keys with one ID", func(o *Options) { o.Verify = []Key{{ID: "k1", Secret: key("k2").Secret}} }, `two keys with the ID "k1"`},
	} {
		o := Options{Host: thisHost, Audience: grid1, Sign: key("k1")}
		test.edit(&o)
		a, err := New(o)
		if err == nil || a != nil || !strings.HasPrefix(err.Error(), "gridauth: ") || !strings.Contains(err.Error(), test.want) {
			t.Errorf("%s: got %v, want %q", test.name, err, test.want)
		}
	}
	if _, err := New(Options{Host: thisHost, Audience: grid1, Sign: key("k1"), Verify: []Key{key("k1")}}); err != nil {
		t.Errorf("the same key twice: %v", err)
	}
}

func TestSecretsAreCopied(t *testing.T) {
	k := key("k1")
	a := newAuth(t, func(o *Options) { o.Sign = k })
	clear(k.Secret)
	if err := newAuth(t, nil).AuthRequest(bearing("Bearer " + a.AddAuth(""))); err != nil {
		t.Error(err)
	}
}

func TestAKeyPrintsAsItsID(t *testing.T) {
	k := Key{ID: "k1", Secret: []byte(strings.Repeat("open sesame ", 10))}
	o := Options{Sign: k, Verify: []Key{k}}
	var out bytes.Buffer
	for _, v := range []any{k, &k, o, &o, []Key{k}} {
		fmt.Fprintf(&out, "%v %+v %#v %s\n", v, v, v, v)
		slog.New(slog.NewTextHandler(&out, nil)).Info("", "v", v)
		slog.New(slog.NewJSONHandler(&out, nil)).Info("", "v", v)
		if err := json.NewEncoder(&out).Encode(v); err != nil {
			t.Error(err)
		}
	}
	for _, secret := range []string{"sesame", base64.StdEncoding.EncodeToString(k.Secret)[:20], fmt.Sprint(k.Secret[:6])[1:20], fmt.Sprintf("%x", k.Secret[:6]), "0x6f, 0x70"} {
		if strings.Contains(out.String(), secret) {
			t.Errorf("%q is in %s", secret, &out)
		}
	}
	if !strings.Contains(out.String(), "k1") {
		t.Errorf("no ID in %s", &out)
	}
}

func TestKeysAreRotated(t *testing.T) {
	ours := newAuth(t, nil)
	theirs := newAuth(t, func(o *Options) { o.Host = thatHost })
	exchange := func(when string) {
		t.Helper()
		if err := ours.AuthRequest(bearing("Bearer " + theirs.AddAuth(""))); err != nil {
			t.Errorf("%s: %v", when, err)
		}
		if err := theirs.AuthRequest(bearing("Bearer " + ours.AddAuth(""))); err != nil {
			t.Errorf("%s: %v", when, err)
		}
	}
	for _, step := range []struct {
		name   string
		sign   Key
		verify []Key
	}{
		{"the next key verifies", key("k1"), []Key{key("k2")}},
		{"the next key signs", key("k2"), []Key{key("k1")}},
		{"the old key is gone", key("k2"), nil},
	} {
		for _, a := range []*Auth{ours, theirs} {
			if err := a.SetKeys(step.sign, step.verify...); err != nil {
				t.Fatal(err)
			}
			exchange(step.name)
		}
	}
	old := newAuth(t, nil)
	if err := ours.AuthRequest(bearing("Bearer " + old.AddAuth(""))); !errors.Is(err, jwt.ErrTokenUnverifiable) {
		t.Errorf("the old key got %v", err)
	}
	if err := ours.SetKeys(Key{ID: "k3"}); err == nil {
		t.Error("a key without a secret was taken")
	}
	exchange("after a key that was not taken")
}

// Every token that is made while keys change is taken, whenever it is checked, as long as its key
// is known.
func TestKeysChangeUnderThoseWhoUseThem(t *testing.T) {
	a := newAuth(t, func(o *Options) { o.Verify = []Key{key("k2")} })
	var users sync.WaitGroup
	for range 4 {
		users.Go(func() {
			for range 500 {
				r := bearing("Bearer " + a.AddAuth(""))
				if err := a.VerifyPeer(r, thisHost); err != nil {
					t.Error(err)
					return
				}
			}
		})
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		users.Wait()
	}()
	for turn := 0; ; turn++ {
		select {
		case <-done:
			return
		default:
		}
		keys := []Key{key("k1"), key("k2")}
		if err := a.SetKeys(keys[turn%2], keys[1-turn%2]); err != nil {
			t.Fatal(err)
		}
	}
}
