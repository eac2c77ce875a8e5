"""One child process per library: the same model, data and modules, each library's own way (see bench.method.peers)."""
