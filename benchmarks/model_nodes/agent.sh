#!/bin/sh
# Takes the place of ssh for mpirun: agent.sh ADDRESS COMMAND... runs the command on the "node" of that address, which is the network
# namespace hgnode<last number of the address>. With a host name of its own MPI takes it for another node.
node=hgnode${1##*.}
shift
exec ip netns exec "$node" unshare --uts sh -c "hostname $node; $*"
