"""What one client may take of a service, whoever it is."""

AT_ONCE = 512  # connections that are answered; those that follow events stay open
UNHEARD = AT_ONCE + 64  # connections above which one is closed before it has said anything

HEAD = 10.0  # seconds in which the head of a request comes
PATIENCE = 20.0  # seconds that a client may be slow for in all, of a body it sends or an answer it takes
RATE = 1024  # bytes a second, at which it is not slow
LINGER = 5.0  # seconds in which the rest comes of a body that is answered already

RECEIVED = 16  # forms that are received at the same time: each may fill the disk with a few pictures
DRAWN = 8  # threads that make pictures and files of results, so that other answers do not wait for them
QUEUE = 10.0  # seconds that a form waits for its turn

RETRY = 2  # seconds after which what was refused for lack of room may be asked again
