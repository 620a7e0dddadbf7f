"""Generate the miniature COCO that the demo trains on."""
import argparse

from generators import generate_mini_coco


def parse_args():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('root', nargs='?', default='data/mini_coco', help='folder to create')
    parser.add_argument('--train', type=int, default=1200, help='number of training images')
    parser.add_argument('--val', type=int, default=150, help='number of validation images')
    parser.add_argument('--test', type=int, default=200, help='number of test images')
    parser.add_argument('--image-size', type=int, default=192, help='height and width in pixels')
    parser.add_argument('--mixed-shapes', action='store_true',
                        help='landscape and portrait images; IMAGE_SIZE is the longer side')
    parser.add_argument('--seed', type=int, default=0)
    parser.add_argument('--overwrite', action='store_true', help='replace root if it exists')
    return parser.parse_args()


def main():
    args = parse_args()
    num_images = dict(train=args.train, val=args.val, test=args.test)
    from sparsevit_mm.cli import clear_errors
    with clear_errors():
        print(generate_mini_coco(args.root, num_images, args.image_size, args.seed,
                                 args.overwrite, args.mixed_shapes))


if __name__ == '__main__':
    main()
