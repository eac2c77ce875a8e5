"""What other tools expect to find: names of columns, indexes of loaders, lists of uids, tables beside the shards."""
