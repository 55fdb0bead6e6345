package selection

import (
	"reflect"

	"cel.dev/cel-go/common/types"
	"cel.dev/cel-go/common/types/ref"
)

// ConvertToNative implements ref.Val.
func (m labelMap) ConvertToNative(t reflect.Type) (any, error) { return m.real().ConvertToNative(t) }

// ConvertToType implements ref.Val.
func (m labelMap) ConvertToType(t ref.Type) ref.Val { return m.real().ConvertToType(t) }

// Equal implements ref.Val.
func (m labelMap) Equal(other ref.Val) ref.Val {
	if o, ok := other.(labelMap); ok {
		other = o.real()
	}
	return m.real().Equal(other)
}

// Type implements ref.Val.
func (m labelMap) Type() ref.Type { return types.MapType }

// Value implements ref.Val.
func (m labelMap) Value() any { return m.labels.asMap() }
