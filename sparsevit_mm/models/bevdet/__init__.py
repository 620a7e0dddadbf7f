"""BEVDet for mmdet3d. Importing this package registers its modules there."""
from .bev_augmentation import BEVAugmentation
from .bev_resnet import BEVResNet
from .detector import BEVDet
from .head import BEVDetHead
from .image_augmentation import ImageAugmentation
from .loading import LoadCameras
from .necks import FPN_LSS
from .view_transformer import LSSViewTransformer

__all__ = [
    'BEVAugmentation', 'BEVDet', 'BEVDetHead', 'BEVResNet', 'FPN_LSS', 'ImageAugmentation',
    'LSSViewTransformer', 'LoadCameras'
]
