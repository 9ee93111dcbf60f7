"""What a member of a group on database:// may give out, hand over and read again."""

from txpatterns.brokers.database.progress import Progress
from txpatterns.brokers.database.store import Row
from txpatterns.testing.conformance import message


def rows(*positions):
    return [Row(n, ("orders", n % 2), message("orders", str(n % 2))) for n in positions]


def test_a_part_is_kept_until_what_was_given_out_is_deleted():
    """P3, H420: acknowledged is not enough: the next one would read it again, behind what follows."""
    progress, mine = Progress(10, 1000), rows(1, 2, 3)
    progress.take_in(mine)
    (given,) = progress.next(1)
    progress.drop({("orders", 1)})
    assert [row.position for row in progress.next(10)] == [2]
    progress.acknowledge(given)
    assert progress.under_way(("orders", 1))
    progress.settled([given.position])
    assert not progress.under_way(("orders", 1))


def test_a_new_part_is_read_from_its_first_row():
    """P1, H420: what its last owner left lies before what was read of our own; what we have is not given out twice."""
    progress = Progress(10, 1000)
    progress.take_in(rows(2, 4))
    progress.next(1)
    progress.read_again()
    assert progress.after == 0
    progress.reading_began()
    progress.settled([2])  # while the page is read
    progress.take_in(rows(1, 2, 3, 4))
    assert [row.position for row in progress.next(10)] == [4, 1, 3]
