"""What a forked child has to do first."""

import faiss


def without_threads() -> None:
    """Threads of OpenMP that a test before has begun are not there after a fork, and would be waited for."""
    faiss.omp_set_num_threads(1)
