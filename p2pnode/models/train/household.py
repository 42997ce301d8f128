"""The rest of the small world: one-sentence explanations, uses, jobs, places, lists, instructions."""

from __future__ import annotations

from p2pnode.models.train.facts import columns

__all__ = [
    "BODY_PARTS", "DAYS", "EXPLANATIONS", "INSTRUCTIONS", "JOBS", "LISTS", "MONTHS", "NUMBER_WORDS", "PLACES",
    "SEASONS", "SOURCES", "TOOLS",
]  # fmt: skip

# thing | what it is; the answer is "<Thing> is <what it is>."
EXPLANATIONS: tuple[tuple[str, ...], ...] = columns(
    """
rain | water that falls from the clouds
snow | frozen water that falls from the clouds in soft white flakes
the sun | a star that gives us light and warmth
the moon | a ball of rock that goes around the earth
a star | a very hot ball of gas that shines far away in space
a cloud | a great number of tiny drops of water in the sky
wind | air that is moving
thunder | the loud sound that lightning makes
a rainbow | an arch of colours that appears when the sun shines on rain
ice | water that is so cold that it has become hard
a river | a long stream of water that flows to the sea
a lake | a large body of water with land all around it
the sea | a very large body of salt water
an island | a piece of land with water all around it
a mountain | a very high piece of land
a desert | a dry place where very little rain falls
a forest | a large place with many trees
a garden | a piece of land where people grow flowers and vegetables
a tree | a tall plant with a trunk, branches and leaves
a flower | the pretty part of a plant that makes seeds
a seed | a small thing from which a new plant grows
grass | a green plant that covers fields and gardens
a farm | a place where people grow food and keep animals
a house | a building where people live
a school | a place where children learn
a library | a place where people can read and borrow books
a hospital | a place where doctors and nurses help sick people
a market | a place where people buy and sell things
a bridge | a way to cross over a river or a road
a road | a way on which cars and people travel
a train | a long vehicle that runs on rails
a boat | a vehicle that travels on water
a car | a vehicle with four wheels and an engine
a bicycle | a vehicle with two wheels that you move with your feet
a plane | a machine with wings that flies through the air
a clock | a thing that shows the time
a book | a set of pages with words to read
a letter | a written message that you send to someone
a map | a drawing that shows where places are
a computer | a machine that works with numbers, words and pictures
a telephone | a machine that lets you talk to people far away
a lamp | a thing that gives light when it is dark
a candle | a stick of wax that gives light when it burns
a mirror | a piece of glass that shows you your own face
a window | an opening in a wall that lets in light
a door | a thing you open to go into a room
a key | a small piece of metal that opens a lock
a chair | a thing to sit on
a table | a piece of furniture with a flat top
a bed | a piece of furniture to sleep on
a kitchen | a room where people cook food
bread | a food that is baked from flour and water
cheese | a food that is made from milk
soup | a warm food that you eat with a spoon
honey | a sweet food that bees make
an egg | a round thing that a hen lays
salt | a white mineral that gives food more taste
water | a clear liquid that all living things need
fire | the heat and light that come from burning things
paper | a thin sheet made from wood that you can write on
glass | a hard and clear material that you can see through
wool | the soft hair of a sheep
money | what people use to buy things
music | a pleasant pattern of sounds
a song | a piece of music with words
a dream | a story that your mind tells you while you sleep
a friend | a person you like and trust
a family | a group of people who belong together
a game | something that people play for fun
a holiday | a time when people do not have to work
a birthday | the day on which a person was born
a word | a group of letters that means something
a number | a sign that tells how many things there are
a question | a sentence that asks for an answer
winter | the coldest season of the year
summer | the warmest season of the year
spring | the season when the flowers begin to grow
autumn | the season when the leaves fall from the trees
a magnet | a piece of metal that pulls iron towards it
a shadow | a dark shape that appears when something blocks the light
a robot | a machine that can do some work by itself
a language model | a program that has learned to continue a text
a network | a group of computers that can talk to each other
""",
    2,
)

# tool | purpose; the answer is "You use <tool> to <purpose>."
TOOLS: tuple[tuple[str, ...], ...] = columns(
    """
a hammer | hit nails into wood
a saw | cut wood
a knife | cut food
a spoon | eat soup
a fork | pick up food
a cup | drink tea or milk
a pen | write
a pencil | write and draw
a brush | paint a picture
a broom | sweep the floor
a needle | sew clothes
an umbrella | stay dry in the rain
a ladder | climb up high
a shovel | dig a hole
a bucket | carry water
a rope | tie things together
a towel | dry your hands
a pillow | rest your head
a blanket | keep warm at night
scissors | cut paper
soap | wash your hands
a toothbrush | clean your teeth
a comb | tidy your hair
a pan | cook food
an oven | bake bread and cakes
a fridge | keep food cold
a ruler | measure how long things are
a wheelbarrow | move heavy things in the garden
""",
    2,
)

# job | what the person does; the answer is "<Job> <does>."
JOBS: tuple[tuple[str, ...], ...] = columns(
    """
a baker | bakes bread and cakes
a doctor | helps sick people
a nurse | cares for sick people
a teacher | helps children learn
a farmer | grows food and keeps animals
a cook | prepares food
a painter | paints pictures and walls
a gardener | takes care of plants and flowers
a pilot | flies planes
a driver | drives a car or a bus
a fisherman | catches fish
a carpenter | makes things from wood
a tailor | makes clothes
a writer | writes books and stories
a singer | sings songs
a dentist | takes care of teeth
a builder | builds houses
a sailor | works on a ship
a shepherd | looks after sheep
a librarian | takes care of books
a postman | brings letters to people
a firefighter | puts out fires
""",
    2,
)

# place | what people do there; the answer is "In <place> people <do>."
PLACES: tuple[tuple[str, ...], ...] = columns(
    """
a library | read and borrow books
a school | learn to read and write
a kitchen | cook and bake
a bakery | buy bread and cakes
a garden | grow flowers and vegetables
a park | walk, play and rest
a shop | buy things
a hospital | get help when they are sick
a museum | look at old and interesting things
a bedroom | sleep at night
a bathroom | wash themselves
a theatre | watch plays
a restaurant | eat and drink together
a workshop | build and repair things
""",
    2,
)

# thing | where it comes from; the answer is "<Thing> comes from <source>."
SOURCES: tuple[tuple[str, ...], ...] = columns(
    """
milk | cows
honey | bees
wool | sheep
an egg | a hen
bread | flour that is baked in an oven
flour | grain
rain | the clouds
an apple | an apple tree
paper | wood
wood | trees
light | the sun
butter | milk
cheese | milk
wine | grapes
salt | the sea
chocolate | cocoa beans
""",
    2,
)

# body part | what we do with it; the answer is "We use our <part> to <do>."
BODY_PARTS: tuple[tuple[str, ...], ...] = columns(
    """
eyes | see
ears | hear
nose | smell
mouth | eat and speak
teeth | chew food
tongue | taste food
hands | hold things
fingers | touch and feel
legs | walk and run
feet | stand and walk
arms | lift and carry things
brain | think
""",
    2,
)

DAYS = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday")
MONTHS = (
    "January", "February", "March", "April", "May", "June", "July", "August", "September", "October", "November",
    "December",
)  # fmt: skip
SEASONS = ("spring", "summer", "autumn", "winter")
NUMBER_WORDS = (
    "zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten",
)  # fmt: skip

# plural | members in the order in which answers walk through them
LISTS: dict[str, tuple[str, ...]] = {
    "animals": ("fox", "bear", "rabbit", "horse", "cow", "owl", "wolf", "lion", "sheep", "mouse"),
    "farm animals": ("cow", "pig", "hen", "sheep", "goat", "horse", "donkey", "duck"),
    "sea animals": ("whale", "shark", "dolphin", "crab", "turtle"),
    "birds": ("robin", "owl", "eagle", "duck", "hen", "parrot", "penguin"),
    "insects": ("ant", "bee", "butterfly", "ladybird", "fly", "beetle"),
    "fruits": ("apple", "banana", "pear", "cherry", "plum", "orange", "lemon", "strawberry"),
    "vegetables": ("carrot", "potato", "onion", "tomato", "cucumber", "pea", "pumpkin"),
    "colours": ("red", "blue", "green", "yellow", "orange", "purple", "white", "black", "brown", "pink"),
    "tools": ("hammer", "saw", "ladder", "shovel", "brush", "rope", "needle"),
    "drinks": ("water", "milk", "tea", "coffee", "apple juice", "lemonade"),
    "jobs": ("baker", "doctor", "teacher", "farmer", "pilot", "painter", "gardener"),
    "body parts": ("head", "arm", "hand", "leg", "foot", "nose", "ear"),
    "clothes": ("coat", "hat", "shirt", "sock", "shoe", "scarf", "glove"),
    "vehicles": ("car", "bus", "train", "boat", "plane", "bicycle"),
    "instruments": ("piano", "drum", "violin", "flute", "guitar", "trumpet"),
    "shapes": ("circle", "square", "triangle", "star", "heart"),
    "seasons": SEASONS,
    "days": DAYS,
    "months": MONTHS,
    "toys": ("ball", "doll", "kite", "puzzle", "toy train", "teddy bear"),
    "rooms": ("kitchen", "bedroom", "bathroom", "living room", "hall"),
    "trees": ("oak", "pine", "birch", "willow", "maple"),
    "flowers": ("rose", "tulip", "daisy", "sunflower", "lily"),
}

# task | its steps; the answer joins the steps with first, then, after that, finally
INSTRUCTIONS: tuple[tuple[str, ...], ...] = columns(
    """
make tea | boil some water; put a tea bag into a cup; pour the hot water over the tea bag; wait for three minutes; take out the tea bag and enjoy your tea
make a sandwich | take two slices of bread; spread some butter on them; put cheese and tomato on one slice; put the other slice on top
boil an egg | fill a small pan with water; heat the water until it boils; put the egg into the water with a spoon; wait for about seven minutes; cool the egg under cold water
plant a seed | fill a pot with soil; make a small hole with your finger; put the seed into the hole; cover the seed with soil; give it some water and a place in the sun
wash my hands | wet your hands with warm water; rub them with soap; count slowly to twenty; rinse off the soap; dry your hands with a clean towel
bake bread | mix flour, water, salt and yeast; knead the dough for ten minutes; let the dough rest for an hour; bake it in a hot oven until it is brown
paint a picture | take a sheet of paper; choose your colours; dip the brush into the paint; paint what you see or what you dream of; let the picture dry
clean my room | pick up the toys and the books; put the clothes away; wipe the table with a cloth; sweep the floor with a broom
make soup | cut some carrots, onions and potatoes; put them into a pot of water; add a little salt; cook the soup for half an hour; taste it and serve it warm
write a letter | take a sheet of paper and a pen; write the name of your friend at the top; tell your friend your news; sign your name at the end; put the letter into an envelope
build a snowman | roll a big ball of snow; roll two smaller balls of snow; put them on top of each other; use a carrot for the nose; give the snowman an old hat
make a fruit salad | wash some apples, pears and grapes; cut the fruit into small pieces; put the pieces into a bowl; add a little lemon juice; mix everything with a spoon
brush my teeth | put some toothpaste on your toothbrush; brush every tooth for two minutes; spit out the toothpaste; rinse your mouth with water
fly a kite | wait for a windy day; go to an open field; hold the kite up into the wind; let out the string slowly; run a few steps until the kite rises
fall asleep | put away your toys and books; turn off the light; lie down in your warm bed; close your eyes; breathe slowly and think of something nice
""",  # noqa: E501  (one task a line)
    2,
)
