"""The demonstration behind `resflow demo`: draw or take images, write shards, index, plan, train, evaluate, plot."""
