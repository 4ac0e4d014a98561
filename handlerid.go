package grid

import (
	"fmt"
	"strconv"
	"sync/atomic"
)

//go:generate go tool -modfile=internal/tools/go.mod msgp -tests=false -file=handlerid.go -o=handlerid_gen.go

// HandlerID identifies a handler on the wire. 1 to 127 belong to the original, whose handlers have
// constants here, and may be used. 128 to 255 are for the application.
type HandlerID uint8

// HandlerUserFirst is the first handler ID for the application.
const HandlerUserFirst HandlerID = 128

// HandlerNamed is the ID of all methods, that is of the handlers that have a name (see
// Manager.Handle): a method is a handler on the subroute of its name. It is one of the original's, so
// that its nodes can have methods too, and call them. Without a subroute it is an ID as any other.
const HandlerNamed HandlerID = 74

// handlerIDs is the number of handler IDs.
const handlerIDs = 256

// handlerInvalid is no handler.
const handlerInvalid HandlerID = 0

// The handlers of the original.
const (
	HandlerLockLock                    HandlerID = 1
	HandlerLockRLock                   HandlerID = 2
	HandlerLockUnlock                  HandlerID = 3
	HandlerLockRUnlock                 HandlerID = 4
	HandlerLockRefresh                 HandlerID = 5
	HandlerLockForceUnlock             HandlerID = 6
	HandlerWalkDir                     HandlerID = 7
	HandlerStatVol                     HandlerID = 8
	HandlerDiskInfo                    HandlerID = 9
	HandlerNSScanner                   HandlerID = 10
	HandlerReadXL                      HandlerID = 11
	HandlerReadVersion                 HandlerID = 12
	HandlerDeleteFile                  HandlerID = 13
	HandlerDeleteVersion               HandlerID = 14
	HandlerUpdateMetadata              HandlerID = 15
	HandlerWriteMetadata               HandlerID = 16
	HandlerCheckParts                  HandlerID = 17
	HandlerRenameData                  HandlerID = 18
	HandlerRenameFile                  HandlerID = 19
	HandlerReadAll                     HandlerID = 20
	HandlerServerVerify                HandlerID = 21
	HandlerTrace                       HandlerID = 22
	HandlerListen                      HandlerID = 23
	HandlerDeleteBucketMetadata        HandlerID = 24
	HandlerLoadBucketMetadata          HandlerID = 25
	HandlerReloadSiteReplicationConfig HandlerID = 26
	HandlerReloadPoolMeta              HandlerID = 27
	HandlerStopRebalance               HandlerID = 28
	HandlerLoadRebalanceMeta           HandlerID = 29
	HandlerLoadTransitionTierConfig    HandlerID = 30
	HandlerDeletePolicy                HandlerID = 31
	HandlerLoadPolicy                  HandlerID = 32
	HandlerLoadPolicyMapping           HandlerID = 33
	HandlerDeleteServiceAccount        HandlerID = 34
	HandlerLoadServiceAccount          HandlerID = 35
	HandlerDeleteUser                  HandlerID = 36
	HandlerLoadUser                    HandlerID = 37
	HandlerLoadGroup                   HandlerID = 38
	HandlerHealBucket                  HandlerID = 39
	HandlerMakeBucket                  HandlerID = 40
	HandlerHeadBucket                  HandlerID = 41
	HandlerDeleteBucket                HandlerID = 42
	HandlerGetMetrics                  HandlerID = 43
	HandlerGetResourceMetrics          HandlerID = 44
	HandlerGetMemInfo                  HandlerID = 45
	HandlerGetProcInfo                 HandlerID = 46
	HandlerGetOSInfo                   HandlerID = 47
	HandlerGetPartitions               HandlerID = 48
	HandlerGetNetInfo                  HandlerID = 49
	HandlerGetCPUs                     HandlerID = 50
	HandlerServerInfo                  HandlerID = 51
	HandlerGetSysConfig                HandlerID = 52
	HandlerGetSysServices              HandlerID = 53
	HandlerGetSysErrors                HandlerID = 54
	HandlerGetAllBucketStats           HandlerID = 55
	HandlerGetBucketStats              HandlerID = 56
	HandlerGetSRMetrics                HandlerID = 57
	HandlerGetPeerMetrics              HandlerID = 58
	HandlerGetMetacacheListing         HandlerID = 59
	HandlerUpdateMetacacheListing      HandlerID = 60
	HandlerGetPeerBucketMetrics        HandlerID = 61
	HandlerStorageInfo                 HandlerID = 62
	HandlerConsoleLog                  HandlerID = 63
	HandlerListDir                     HandlerID = 64
	HandlerGetLocks                    HandlerID = 65
	HandlerBackgroundHealStatus        HandlerID = 66
	HandlerGetLastDayTierStats         HandlerID = 67
	HandlerSignalService               HandlerID = 68
	HandlerGetBandwidth                HandlerID = 69
	HandlerWriteAll                    HandlerID = 70
	HandlerListBuckets                 HandlerID = 71
	HandlerRenameDataInline            HandlerID = 72
	HandlerRenameData2                 HandlerID = 73
)

// handlerNames holds the names that the program has given, by ID.
var handlerNames [256]atomic.Pointer[string]

// NameHandler names a handler for logs, traces and errors in this process. It is meant for 128 to
// 255, and for IDs of the original that have no name here. It fails for 0 and for an empty name. It
// is safe for concurrent use.
func NameHandler(id HandlerID, name string) error {
	if id == handlerInvalid {
		return fmt.Errorf("%w: %d", ErrUnknownHandler, uint8(id))
	}
	if name == "" {
		return fmt.Errorf("grid: empty name for handler %d", uint8(id))
	}
	handlerNames[id].Store(&name)
	return nil
}

// String returns the name of the handler: the one set by NameHandler, that of its constant without
// "Handler", or "HandlerID(200)" for an ID without a name.
func (h HandlerID) String() string {
	if name := handlerNames[h].Load(); name != nil {
		return *name
	}
	if int(h) < len(originalNames) && originalNames[h] != "" {
		return originalNames[h]
	}
	return "HandlerID(" + strconv.Itoa(int(h)) + ")"
}

// Numbers of what is called from here. Those below are IDs of handlers.
const (
	// otherMethods is the number of all methods that have none of their own.
	otherMethods = handlerIDs
	// firstMethod is the lowest number of a method.
	firstMethod = otherMethods + 1
)

// target is what a handler is known by, to those who call it and where it is registered.
type target struct {
	id     HandlerID
	route  string // its subroute, or the name of a method; empty for none
	number int    // of its counters: among the registrations of the node, or among what is called from here
}

// registration is a handler that was registered, of streams or of requests.
type registration struct {
	target
	stream bool
}

// noHandler is the target of nothing.
var noHandler target

// isMethod reports whether the handler has a name.
func (t target) isMethod() bool { return t.id == HandlerNamed && t.route != "" }

// String returns the name of a method, or that of the handler's ID.
func (t target) String() string {
	if t.isMethod() {
		return t.route
	}
	return t.id.String()
}

// subroute returns the subroute of a handler without a name; empty for none.
func (t target) subroute() string {
	if t.isMethod() {
		return ""
	}
	return t.route
}

// in returns the handler in a sentence.
func (t target) in() string {
	if sub := t.subroute(); sub != "" {
		return t.id.String() + " on subroute " + sub
	}
	return t.String()
}
