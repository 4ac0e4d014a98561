package gridpb

import (
	"errors"
	"reflect"
	"sync"

	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
)

// Two bytes can be an empty message in a list, which takes a hundred in memory, and a message within
// a message, which takes stack. So before a message is decoded its bytes are walked through, without
// keeping anything, to see what will become of them.

// maxDepth is how deeply messages may be nested: as with protobuf's other implementations. Go's own
// takes 10,000 levels, and what vtprotobuf generates has no limit and would overflow the stack.
const maxDepth = 100

var errTooDeep = errors.New("nested too deeply")

// The most that something takes in memory, in bytes. TestWhatMessagesTake measures it.
const (
	perValue = 32 // a value that is not in its struct: a pointer to a number, or the wrapper of a oneof
	perMap   = 64 // an empty map

	// An extension is decoded when somebody asks for it, if it is known at all.
	perExtension       = 512
	perExtensionByte   = 16
	mapSlots           = 8 // of the smallest map
	mapSlotsPerElement = 3 // of one that has just grown
)

// shape is what a type of messages tells about the memory that a value of it takes.
type shape struct {
	fields   map[protowire.Number]field
	extended bool // it can have extensions
}

// field is what a field of a message takes, in bytes.
type field struct {
	each   int            // each time that the field is there
	once   int            // when it is there
	index  int            // of the fields with once: a bit
	packed bool           // many elements may be one value
	elem   int            // of these
	wire   protowire.Type // of an element
	sub    *shape         // of a message; nil for all others
}

var shapes sync.Map // reflect.Type of a message to *shape

// shapeOf returns the shape of a message.
func shapeOf(m proto.Message) *shape {
	t := reflect.TypeOf(m)
	if s, ok := shapes.Load(t); ok {
		return s.(*shape)
	}
	s := make(builder).message(m.ProtoReflect())
	shapes.Store(t, s)
	return s
}

// size returns the most memory that a message decoded from b takes besides its struct, in bytes.
func (s *shape) size(b []byte, depth int) (int, error) {
	if depth == 0 {
		return 0, errTooDeep
	}
	var seen uint64
	size := 0
	for len(b) > 0 {
		num, wire, n := protowire.ConsumeTag(b)
		if n < 0 {
			return 0, protowire.ParseError(n)
		}
		m := protowire.ConsumeFieldValue(num, wire, b[n:])
		if m < 0 {
			return 0, protowire.ParseError(m)
		}
		value := b[n : n+m]
		b = b[n+m:]
		f, ok := s.fields[num]
		if !ok {
			size += s.unknown(n + m)
			continue
		}
		if f.once > 0 && seen&(1<<f.index) == 0 {
			seen |= 1 << f.index
			size += f.once
		}
		more, err := f.size(num, wire, value, depth)
		if err != nil {
			return 0, err
		}
		size += more
	}
	return size, nil
}

// unknown returns what a field of n bytes takes that the type has not.
func (s *shape) unknown(n int) int {
	if s.extended {
		return perExtension + n*perExtensionByte
	}
	return 2 * n // they are collected in one buffer, which grows
}

// size returns what one occurrence of the field takes.
func (f *field) size(num protowire.Number, wire protowire.Type, value []byte, depth int) (int, error) {
	switch wire {
	case protowire.BytesType:
		value, _ = protowire.ConsumeBytes(value)
	case protowire.StartGroupType:
		value, _ = protowire.ConsumeGroup(num, value)
	default:
		return f.each + 2*len(value), nil // where it is not of this type, it is kept as it is
	}
	switch {
	case f.sub != nil:
		size, err := f.sub.size(value, depth-1)
		return f.each + size, err
	case f.packed:
		return f.each + 2*f.elem*elements(f.wire, value), nil
	}
	return f.each + rounded(len(value)), nil
}

// elements returns how many numbers are packed in b.
func elements(wire protowire.Type, b []byte) int {
	switch wire {
	case protowire.Fixed32Type:
		return len(b) / 4
	case protowire.Fixed64Type:
		return len(b) / 8
	}
	n := 0
	for _, c := range b {
		if c < 0x80 {
			n++
		}
	}
	return n
}

// rounded returns what an allocation of n bytes takes.
func rounded(n int) int { return n + n/8 + 16 }

// builder makes the shapes of a type and of those in it, which may be the same.
type builder map[protoreflect.FullName]*shape

func (b builder) message(m protoreflect.Message) *shape {
	d := m.Descriptor()
	if s, ok := b[d.FullName()]; ok {
		return s
	}
	s := &shape{fields: make(map[protowire.Number]field), extended: d.ExtensionRanges().Len() > 0}
	b[d.FullName()] = s
	maps := 0
	for i := range d.Fields().Len() {
		fd := d.Fields().Get(i)
		f := b.field(m, fd)
		if f.once > 0 {
			f.index = min(maps, 63)
			if maps++; maps > 63 { // there are not that many bits
				f.each += f.once
			}
		}
		s.fields[fd.Number()] = f
	}
	return s
}

func (b builder) field(m protoreflect.Message, fd protoreflect.FieldDescriptor) field {
	switch {
	case fd.IsMap():
		return b.mapField(m.NewField(fd).Map(), fd)
	case fd.IsList():
		f := field{elem: goSize(fd)}
		f.each = 2 * f.elem // in a slice that has grown
		if fd.Message() != nil {
			elem := m.NewField(fd).List().NewElement().Message()
			f.sub = b.message(elem)
			f.each += structSize(elem)
		} else if f.wire = wireType(fd.Kind()); f.wire != protowire.BytesType {
			f.packed = true
		}
		return f
	}
	var f field
	if fd.HasPresence() {
		f.each = perValue
	}
	if fd.Message() != nil {
		sub := m.NewField(fd).Message()
		f.sub = b.message(sub)
		f.each += structSize(sub)
	}
	return f
}

// mapField returns the field that a map is. On the wire, it is a list of messages with key and value.
func (b builder) mapField(m protoreflect.Map, fd protoreflect.FieldDescriptor) field {
	value := fd.MapValue()
	slot := goSize(fd.MapKey()) + goSize(value) + 1
	f := field{each: mapSlotsPerElement * slot, once: perMap + mapSlots*slot}
	f.sub = &shape{fields: map[protowire.Number]field{fd.MapKey().Number(): {}, value.Number(): {}}}
	if value.Message() != nil {
		elem := m.NewValue().Message()
		f.each += structSize(elem)
		f.sub.fields[value.Number()] = field{sub: b.message(elem)}
	}
	return f
}

// structSize returns what the struct of a message takes.
func structSize(m protoreflect.Message) int {
	return rounded(int(reflect.TypeOf(m.Interface()).Elem().Size()))
}

// goSize returns the size of a field's Go type, or of the elements of a list.
func goSize(fd protoreflect.FieldDescriptor) int {
	switch fd.Kind() {
	case protoreflect.BoolKind:
		return 1
	case protoreflect.EnumKind, protoreflect.Int32Kind, protoreflect.Sint32Kind, protoreflect.Uint32Kind,
		protoreflect.Fixed32Kind, protoreflect.Sfixed32Kind, protoreflect.FloatKind:
		return 4
	case protoreflect.StringKind:
		return 16
	case protoreflect.BytesKind:
		return 24
	}
	return 8
}

// wireType returns the type of a kind's elements on the wire.
func wireType(k protoreflect.Kind) protowire.Type {
	switch k {
	case protoreflect.StringKind, protoreflect.BytesKind:
		return protowire.BytesType
	case protoreflect.Fixed32Kind, protoreflect.Sfixed32Kind, protoreflect.FloatKind:
		return protowire.Fixed32Type
	case protoreflect.Fixed64Kind, protoreflect.Sfixed64Kind, protoreflect.DoubleKind:
		return protowire.Fixed64Type
	}
	return protowire.VarintType
}
