package pubsub

type Item[M any] interface{ Mask() M }
type PubSub[T Item[M], M ~uint64] struct{}

func (p *PubSub[T, M]) Wants(mask M) bool { return false }
func (p *PubSub[T, M]) Publish(item T)    {}
