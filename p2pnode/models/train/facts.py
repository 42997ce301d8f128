"""The small world that the corpus speaks about: animals, and the things around a house.

Every row is a plain, widely known fact. Tables are written as text, one row a line, because they are read and
corrected by people more often than by the program. A dash means "not asked about".
"""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["ANIMALS", "COLOURS_OF", "OPPOSITES", "SIZES", "Animal", "columns"]


@dataclass(frozen=True, slots=True)
class Animal:
    """One animal and what a child would know about it."""

    name: str
    home: str
    colour: str
    food: str
    sound: str
    size: str
    baby: str
    legs: str
    trait: str


def columns(text: str, count: int) -> tuple[tuple[str, ...], ...]:
    """Return the rows of a table written with bars, each with exactly `count` cells."""
    found = []
    for line in text.strip().splitlines():
        cells = tuple(cell.strip() for cell in line.split("|"))
        if len(cells) != count:
            raise ValueError(f"expected {count} cells: {line!r}")
        found.append(cells)
    return tuple(found)


_ANIMAL_ROWS = """
ant       | in a nest under the ground    | black            | leaves and crumbs      | -       | tiny  | -       | 6 | can carry things that are bigger than itself
bee       | in a hive                     | yellow and black | nectar from flowers    | buzz    | tiny  | -       | 6 | makes honey
ladybird  | in the garden                 | red and black    | tiny insects           | -       | tiny  | -       | 6 | has small black spots
spider    | in a web                      | brown            | flies                  | -       | tiny  | -       | 8 | spins a web of fine thread
butterfly | in the meadow                 | -                | nectar from flowers    | -       | tiny  | -       | 6 | has four pretty wings
snail     | in the garden                 | brown            | leaves                 | -       | tiny  | -       | - | carries a shell on its back
mouse     | in a small hole               | grey             | seeds and grain        | squeak  | small | -       | 4 | has a long thin tail
frog      | near a pond                   | green            | flies                  | ribbit  | small | tadpole | 4 | can jump very far
robin     | in a nest in a tree           | brown and red    | worms and seeds        | tweet   | small | chick   | 2 | sings a sweet song
bat       | in a dark cave                | black            | insects                | squeak  | small | pup     | 2 | flies at night
crab      | on the beach                  | red              | small sea animals      | -       | small | -       | 8 | walks sideways
squirrel  | in a tree                     | brown            | nuts and seeds         | -       | small | -       | 4 | hides nuts for the winter
hedgehog  | under the hedge               | brown            | insects and worms      | -       | small | -       | 4 | rolls into a ball when it is afraid
hen       | on the farm                   | brown            | grain and seeds        | cluck   | small | chick   | 2 | lays eggs
duck      | on the pond                   | brown            | plants and insects     | quack   | small | duckling| 2 | swims very well
owl       | in an old tree                | brown            | mice                   | hoot    | small | owlet   | 2 | can see in the dark
parrot    | in the jungle                 | green            | fruit and seeds        | squawk  | small | chick   | 2 | can learn to say words
rabbit    | in a burrow                   | grey             | grass and carrots      | -       | small | kit     | 4 | has long ears
cat       | in a house                    | -                | fish and meat          | meow    | small | kitten  | 4 | likes to sleep in the sun
turtle    | in the sea                    | green            | sea plants             | -       | big   | -       | 4 | has a hard shell
penguin   | on the ice                    | black and white  | fish                   | -       | big   | chick   | 2 | can swim but cannot fly
eagle     | high in the mountains         | brown            | fish and small animals | -       | big   | chick   | 2 | can see very far
fox       | in the forest                 | red              | mice and berries       | -       | small | cub     | 4 | has a long bushy tail
dog       | in a house                    | -                | meat                   | woof    | small | puppy   | 4 | likes to play with a ball
goat      | on the hill                   | white            | grass and leaves       | baa     | big   | kid     | 4 | climbs on steep rocks
sheep     | in the field                  | white            | grass                  | baa     | big   | lamb    | 4 | gives us wool
wolf      | in the forest                 | grey             | meat                   | howl    | big   | cub     | 4 | hunts in a group
deer      | in the forest                 | brown            | grass and leaves       | -       | big   | fawn    | 4 | runs very fast
pig       | on the farm                   | pink             | corn and roots         | oink    | big   | piglet  | 4 | likes to roll in the mud
kangaroo  | in the grassland of Australia | brown            | grass                  | -       | big   | joey    | - | carries its baby in a pouch
monkey    | in the jungle                 | brown            | fruit                  | -       | small | -       | - | climbs from tree to tree
donkey    | on the farm                   | grey             | grass and hay          | hee-haw | big   | foal    | 4 | carries heavy loads
cow       | on the farm                   | brown            | grass                  | moo     | big   | calf    | 4 | gives us milk
zebra     | in the grassland of Africa    | black and white  | grass                  | -       | big   | foal    | 4 | has black and white stripes
horse     | in a stable                   | brown            | grass and hay          | neigh   | big   | foal    | 4 | can carry a rider
camel     | in the desert                 | brown            | dry plants             | -       | big   | calf    | 4 | can live for days without water
lion      | in the grassland of Africa    | yellow           | meat                   | roar    | big   | cub     | 4 | is called the king of the animals
tiger     | in the jungle                 | orange and black | meat                   | roar    | big   | cub     | 4 | is a very strong hunter
bear      | in the forest                 | brown            | berries and fish       | growl   | big   | cub     | 4 | sleeps through the winter
crocodile | in the river                  | green            | fish and meat          | -       | big   | -       | 4 | has many sharp teeth
giraffe   | in the grassland of Africa    | yellow and brown | leaves from tall trees | -       | huge  | calf    | 4 | has a very long neck
dolphin   | in the sea                    | grey             | fish                   | click   | big   | calf    | - | loves to jump out of the water
shark     | in the sea                    | grey             | fish                   | -       | big   | pup     | - | has many sharp teeth
elephant  | in the grassland of Africa    | grey             | leaves and grass       | -       | huge  | calf    | 4 | has a long trunk
whale     | in the sea                    | blue             | tiny sea animals       | -       | huge  | calf    | - | is the biggest animal of all
"""  # noqa: E501  (a table is easier to check when it is wide)

ANIMALS: tuple[Animal, ...] = tuple(Animal(*row) for row in columns(_ANIMAL_ROWS, 9))

# From the smallest to the largest; neighbours on this ladder are never compared, so small doubts do not matter.
SIZES: tuple[str, ...] = (
    "ant", "ladybird", "bee", "snail", "mouse", "frog", "squirrel", "duck", "cat", "fox", "wolf", "sheep", "lion",
    "bear", "cow", "horse", "giraffe", "elephant", "whale",
)  # fmt: skip

COLOURS_OF: tuple[tuple[str, ...], ...] = columns(
    """
the sky | blue
the sea | blue
the sun | yellow
grass | green
snow | white
milk | white
coal | black
a banana | yellow
a lemon | yellow
a carrot | orange
an orange | orange
a pumpkin | orange
a tomato | red
a strawberry | red
a cherry | red
a fire engine | red
a cucumber | green
a pea | green
a leaf | green
a plum | purple
chocolate | brown
wood | brown
honey | golden
sand | yellow
a cloud | white
salt | white
an eggplant | purple
a flamingo | pink
butter | yellow
the night sky | black
""",
    2,
)

OPPOSITES: tuple[tuple[str, ...], ...] = columns(
    """
hot | cold
big | small
fast | slow
up | down
happy | sad
day | night
light | dark
old | young
full | empty
open | closed
high | low
wet | dry
hard | soft
loud | quiet
clean | dirty
early | late
near | far
long | short
strong | weak
rich | poor
left | right
in | out
yes | no
good | bad
first | last
thick | thin
wide | narrow
sweet | sour
awake | asleep
brave | afraid
easy | difficult
summer | winter
begin | end
push | pull
black | white
true | false
always | never
front | back
inside | outside
start | stop
win | lose
buy | sell
give | take
love | hate
laugh | cry
north | south
east | west
deep | shallow
noisy | silent
""",
    2,
)
